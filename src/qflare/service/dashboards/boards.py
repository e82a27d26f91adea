"""The dashboards: handshakes, keys and evidence, workers."""

from __future__ import annotations

from typing import Final

from qflare.service.dashboards.board import Board, Chart, Query, Row

_RATE: Final = "[$__rate_interval]"
_JOB: Final = 'job=~"$job"'


def _rate(metric: str, by: str, matchers: str = "") -> str:
    return f"sum by ({by}) (rate({metric}{{{_JOB}{matchers}}}{_RATE}))"


def _plain(metric: str, matchers: str = "") -> str:
    return f"{metric}{{{_JOB}{matchers}}}"


def _quantile(quantile: float, histogram: str, by: str) -> str:
    return f"histogram_quantile({quantile}, {_rate(f'{histogram}_bucket', f'{by}, le')})"


def _mean(total: str, count: str, by: str) -> str:
    return f"{_rate(total, by)} / {_rate(count, by)}"


def _chart(title: str, about: str, unit: str, *queries: Query) -> Chart:
    return Chart(title=title, about=about, unit=unit, queries=queries)


def _rates(title: str, about: str, legend: str, metric: str, by: str, *, matchers: str = "") -> Chart:
    """How often one thing happens."""
    return _chart(title, about, "ops", Query(_rate(metric, by, matchers), legend))


def _levels(title: str, about: str, unit: str, *levels: tuple[str, str]) -> Chart:
    """Values as they are now: (metric, legend) each."""
    return _chart(title, about, unit, *(Query(_plain(metric), legend) for metric, legend in levels))


_HANDSHAKES: Final = Board(
    name="qflare-handshakes",
    title="QFLARE: handshakes",
    rows=(
        Row(
            title="What devices get",
            charts=(
                _rates(
                    "Handshakes",
                    "Ends of handshakes by form and result. Repeated ones are answers that were lost on the way.",
                    "{{form}} {{result}}",
                    "qflare_handshakes_total",
                    "form, result",
                ),
                _rates(
                    "Why handshakes did not end well",
                    "The true reasons, which no peer is told.",
                    "{{result}}: {{reason}}",
                    "qflare_handshakes_total",
                    "result, reason",
                    matchers=', result=~"refused|failed"',
                ),
                _rates(
                    "Refusals",
                    "Messages refused, by step and reason; tags, tickets and replays are evidence of attacks.",
                    "{{step}}: {{reason}}",
                    "qflare_refusals_total",
                    "step, reason",
                ),
                _rates(
                    "Requests refused as HTTP",
                    "Too large, too slow, overloaded: the protocol never saw them.",
                    "{{step}}: {{reason}}",
                    "qflare_http_refusals_total",
                    "step, reason",
                ),
                _chart(
                    "Alarms of the detector",
                    "By signal.",
                    "ops",
                    Query(_rate("qflare_detector_alarms_total", "signal"), "{{signal}}"),
                    Query(_rate("qflare_detector_dropped_total", "job"), "left out"),
                ),
            ),
        ),
        Row(
            title="Incidents and what is done about them",
            charts=(
                _levels(
                    "Incidents",
                    "Those that nobody has closed; open ones wait for somebody to look.",
                    "short",
                    ("qflare_incidents", "{{severity}}, {{state}}"),
                ),
                _levels(
                    "Responses of the last day",
                    "By what they do and what became of them.",
                    "short",
                    ("qflare_responses", "{{action}}: {{state}}"),
                ),
                _levels(
                    "Proposals that wait for people",
                    "For the first operator, or for the second where two must want it; they end after a day.",
                    "short",
                    ("qflare_responses_waiting", "{{operator}}"),
                ),
                _levels(
                    "Wait of the oldest proposal",
                    "A person should have looked within the hour.",
                    "s",
                    ("qflare_responses_waiting_seconds", "waited"),
                ),
                _chart(
                    "Refused by the bounds",
                    "Rules wanted to shut out more devices than they may, in an hour: one fault of many, or a slander.",
                    "short",
                    Query(f"increase({_plain('qflare_responses_refused_total')}[1h])", "{{action}}"),
                ),
            ),
        ),
        Row(
            title="Batches",
            charts=(
                _chart(
                    "Items of a batch",
                    "Means; full batches say that a worker is busy.",
                    "short",
                    Query(_mean("qflare_batch_items_sum", "qflare_batch_items_count", "operation"), "{{operation}}"),
                ),
                _chart(
                    "Wait for a batch, 99 %",
                    "Of the item that waited longest in its batch.",
                    "s",
                    Query(_quantile(0.99, "qflare_batch_wait_seconds", "operation"), "{{operation}}"),
                ),
                _chart(
                    "Run of a batch, 99 %",
                    "Computing and the database together.",
                    "s",
                    Query(_quantile(0.99, "qflare_batch_run_seconds", "operation"), "{{operation}}"),
                ),
                _chart(
                    "Queues",
                    "Items that wait now, and calls refused since a queue was full.",
                    "short",
                    Query(_plain("qflare_queue_items"), "{{operation}}"),
                    Query(_rate("qflare_queue_overloads_total", "operation"), "refused: {{operation}}"),
                    Query(_rate("qflare_queue_displaced_total", "operation"), "displaced: {{operation}}"),
                ),
            ),
        ),
        Row(
            title="What computes",
            charts=(
                _chart(
                    "Time of a row",
                    "KEM, signatures and key derivation: seconds in C for each row, batches included.",
                    "s",
                    Query(_mean("qflare_call_seconds_sum", "qflare_call_rows_total", "operation"), "{{operation}}"),
                ),
                _chart(
                    "Share of one core",
                    "Time in C a second, by operation.",
                    "percentunit",
                    Query(_rate("qflare_call_seconds_sum", "operation"), "{{operation}}"),
                ),
                _rates("Rows", "Rows computed a second.", "{{operation}}", "qflare_call_rows_total", "operation"),
            ),
        ),
    ),
)

_KEYS: Final = Board(
    name="qflare-keys",
    title="QFLARE: keys and evidence",
    rows=(
        Row(
            title="Keys die in time",
            charts=(
                _chart(
                    "Age of the oldest key",
                    "From the begin of its bucket; above the bound forward secrecy is not what is promised.",
                    "s",
                    Query(_plain("qflare_oldest_key_age_seconds"), "{{place}}"),
                    Query(f"2.5 * {_plain('qflare_bucket_width_seconds')}", "bound"),
                ),
                _levels(
                    "Age of the announced bucket",
                    "Rises to the width and begins again; above it a worker hangs behind.",
                    "s",
                    ("qflare_bucket_age_seconds", "age"),
                    ("qflare_bucket_width_seconds", "width"),
                ),
                _chart(
                    "The turn",
                    "Duration of the newest turn, and of a step of it.",
                    "s",
                    Query(_plain("qflare_turn_seconds"), "{{sweep}} sweep"),
                    Query(_quantile(0.99, "qflare_turn_step_seconds", "job"), "step, 99 %"),
                ),
                _levels(
                    "Sessions of the turn",
                    "Chain keys that the newest turn carried.",
                    "short",
                    ("qflare_turn_chain_keys", "chain keys"),
                ),
                _levels(
                    "Steps of the turn",
                    "Those that are not done at the end of the bucket lose their sessions.",
                    "short",
                    ("qflare_turn_steps", "steps"),
                    ("qflare_turn_steps_done", "done"),
                ),
                _chart(
                    "Clean-up",
                    "What it removed, a second.",
                    "ops",
                    Query(_rate("qflare_cleanup_bucket_rows_total", "job"), "rows of bucket keys"),
                    Query(_rate("qflare_keys_destroyed_total", "job"), "sealing keys"),
                    Query(_rate("qflare_cleanup_sessions_expired_total", "job"), "sessions"),
                ),
                _levels("Certificate", "Time that is left of it.", "s", ("qflare_certificate_seconds_left", "left")),
            ),
        ),
        Row(
            title="Evidence",
            charts=(
                _chart(
                    "Entries of the log",
                    "Entries written a second.",
                    "ops",
                    Query(f"deriv({_plain('qflare_audit_entries')}{_RATE})", "entries"),
                ),
                _levels(
                    "Entries without a signed head",
                    "They get one with the next session at the latest.",
                    "short",
                    ("qflare_audit_unsigned_entries", "entries"),
                ),
                _levels(
                    "Lag of the signed head",
                    "Its age where entries wait for one; rises on a server where nobody comes.",
                    "s",
                    ("qflare_audit_lag_seconds", "lag"),
                ),
                _rates(
                    "Failures of the log",
                    "Entries not appended, heads not signed or not stored; the reason names error and SQLSTATE.",
                    "{{step}}: {{reason}}",
                    "qflare_audit_failures_total",
                    "step, reason",
                ),
                _rates(
                    "Evidence that was only counted",
                    "Events about refusals beyond the bound of a minute.",
                    "left out",
                    "qflare_refusal_events_left_out_total",
                    "job",
                ),
            ),
        ),
    ),
)

_WORKERS: Final = Board(
    name="qflare-workers",
    title="QFLARE: workers",
    rows=(
        Row(
            title="Processes",
            charts=(
                _levels(
                    "Workers",
                    "Those that serve, those that there should be, and those that do not tell their figures.",
                    "short",
                    ("qflare_workers", "serve"),
                    ("qflare_workers_wanted", "wanted"),
                    ("qflare_workers_silent", "silent"),
                ),
                _chart(
                    "Restarts",
                    "Workers started in place of ones that had ended, in an hour.",
                    "short",
                    Query(f"increase({_plain('qflare_worker_restarts_total')}[1h])", "restarts"),
                ),
                _levels("Ready", "1 where every worker can use it.", "short", ("qflare_ready", "{{part}}")),
                _chart(
                    "Time of a request, 99 %",
                    "From its begin to the end of its answer; a body that comes slowly counts.",
                    "s",
                    Query(_quantile(0.99, "qflare_http_request_seconds", "route"), "{{route}}"),
                ),
                _rates(
                    "Answers",
                    "By kind of status; none is a client that went before.",
                    "{{status}}",
                    "qflare_http_request_seconds_count",
                    "status",
                ),
                _levels(
                    "Requests under way",
                    "With a body; and the bytes that they hold.",
                    "short",
                    ("qflare_http_requests", "requests"),
                ),
                _levels(
                    "Bytes of bodies",
                    "Held in memory beyond what each request may always hold.",
                    "bytes",
                    ("qflare_http_body_bytes", "bytes"),
                ),
                _levels(
                    "Versions",
                    "What runs.",
                    "short",
                    ("qflare_build_info", "{{version}}, liboqs {{liboqs}}, {{engine}}"),
                ),
            ),
        ),
        Row(
            title="Resources",
            charts=(
                _chart(
                    "Processor",
                    "Of all workers; 1 is one core.",
                    "percentunit",
                    Query(_rate("qflare_worker_cpu_seconds_total", "job"), "workers"),
                ),
                _levels("Memory", "Of all workers.", "bytes", ("qflare_worker_resident_bytes", "workers")),
                _levels(
                    "Connections to the database",
                    "Near the most, statements wait for each other.",
                    "short",
                    ("qflare_pool_connections", "{{state}}"),
                    ("qflare_pool_connections_max", "most"),
                ),
                _levels(
                    "Jobs",
                    "That run in a thread or wait for one, and batches under way.",
                    "short",
                    ("qflare_jobs", "jobs"),
                    ("qflare_queue_batches", "{{operation}}"),
                ),
                _levels("Reserves", "What is ready.", "short", ("qflare_reserve_ready", "{{reserve}}")),
                _rates(
                    "Use of the reserves",
                    "Missed ones were made while a caller waited.",
                    "{{reserve}} {{event}}",
                    "qflare_reserve_items_total",
                    "reserve, event",
                ),
                _chart(
                    "Wait of all items",
                    "Seconds waited a second: how many items wait at a time.",
                    "short",
                    Query(_rate("qflare_item_wait_seconds_total", "operation"), "{{operation}}"),
                ),
                _chart(
                    "Care",
                    "Time since a worker's last round of care, time of a clean-up, and rounds that failed.",
                    "s",
                    Query(_plain("qflare_maintenance_age_seconds"), "age"),
                    Query(_quantile(0.99, "qflare_cleanup_seconds", "job"), "clean-up, 99 %"),
                    Query(f"increase({_plain('qflare_maintenance_failures_total')}[1h])", "failures an hour"),
                ),
                _chart(
                    "The detector",
                    "Observations a second, those that wait, and sightings that wait for the database.",
                    "short",
                    Query(_rate("qflare_detector_observations_total", "job"), "observations a second"),
                    Query(_plain("qflare_detector_waiting"), "waiting"),
                    Query(_plain("qflare_detector_unreported"), "unreported"),
                ),
                _levels(
                    "Buckets",
                    "The server's bucket, and that of the newest turn.",
                    "none",
                    ("qflare_bucket_index", "bucket"),
                    ("qflare_turn_bucket_index", "turn"),
                ),
            ),
        ),
    ),
)

BOARDS: Final = (_HANDSHAKES, _KEYS, _WORKERS)
