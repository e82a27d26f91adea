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


_HANDSHAKES: Final = Board(
    name="qflare-handshakes",
    title="QFLARE: handshakes",
    rows=(
        Row(
            title="What devices get",
            charts=(
                Chart(
                    title="Handshakes",
                    about="Ends of handshakes by form and result. Repeated ones are answers that were lost on the way.",
                    unit="ops",
                    queries=(Query(_rate("qflare_handshakes_total", "form, result"), "{{form}} {{result}}"),),
                ),
                Chart(
                    title="Why handshakes did not end well",
                    about="The true reasons, which no peer is told.",
                    unit="ops",
                    queries=(
                        Query(
                            _rate("qflare_handshakes_total", "result, reason", ', result=~"refused|failed"'),
                            "{{result}}: {{reason}}",
                        ),
                    ),
                ),
                Chart(
                    title="Refusals",
                    about="Messages refused, by step and reason; tags, tickets and replays are evidence of attacks.",
                    unit="ops",
                    queries=(Query(_rate("qflare_refusals_total", "step, reason"), "{{step}}: {{reason}}"),),
                ),
                Chart(
                    title="Requests refused as HTTP",
                    about="Too large, too slow, overloaded: the protocol never saw them.",
                    unit="ops",
                    queries=(Query(_rate("qflare_http_refusals_total", "step, reason"), "{{step}}: {{reason}}"),),
                ),
                Chart(
                    title="Alarms of the detector",
                    about="By signal.",
                    unit="ops",
                    queries=(
                        Query(_rate("qflare_detector_alarms_total", "signal"), "{{signal}}"),
                        Query(_rate("qflare_detector_dropped_total", "job"), "left out"),
                    ),
                ),
            ),
        ),
        Row(
            title="Batches",
            charts=(
                Chart(
                    title="Items of a batch",
                    about="Means; full batches say that a worker is busy.",
                    unit="short",
                    queries=(
                        Query(
                            _mean("qflare_batch_items_sum", "qflare_batch_items_count", "operation"), "{{operation}}"
                        ),
                    ),
                ),
                Chart(
                    title="Wait for a batch, 99 %",
                    about="Of the item that waited longest in its batch.",
                    unit="s",
                    queries=(Query(_quantile(0.99, "qflare_batch_wait_seconds", "operation"), "{{operation}}"),),
                ),
                Chart(
                    title="Run of a batch, 99 %",
                    about="Computing and the database together.",
                    unit="s",
                    queries=(Query(_quantile(0.99, "qflare_batch_run_seconds", "operation"), "{{operation}}"),),
                ),
                Chart(
                    title="Queues",
                    about="Items that wait now, and calls refused since a queue was full.",
                    unit="short",
                    queries=(
                        Query(_plain("qflare_queue_items"), "{{operation}}"),
                        Query(_rate("qflare_queue_overloads_total", "operation"), "refused: {{operation}}"),
                        Query(_rate("qflare_queue_displaced_total", "operation"), "displaced: {{operation}}"),
                    ),
                ),
            ),
        ),
        Row(
            title="What computes",
            charts=(
                Chart(
                    title="Time of a row",
                    about="KEM, signatures and key derivation: seconds in C for each row, batches included.",
                    unit="s",
                    queries=(
                        Query(_mean("qflare_call_seconds_sum", "qflare_call_rows_total", "operation"), "{{operation}}"),
                    ),
                ),
                Chart(
                    title="Share of one core",
                    about="Time in C a second, by operation.",
                    unit="percentunit",
                    queries=(Query(_rate("qflare_call_seconds_sum", "operation"), "{{operation}}"),),
                ),
                Chart(
                    title="Rows",
                    about="Rows computed a second.",
                    unit="ops",
                    queries=(Query(_rate("qflare_call_rows_total", "operation"), "{{operation}}"),),
                ),
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
                Chart(
                    title="Age of the oldest key",
                    about="From the begin of its bucket; above the bound forward secrecy is not what is promised.",
                    unit="s",
                    queries=(
                        Query(_plain("qflare_oldest_key_age_seconds"), "{{place}}"),
                        Query(f"2.5 * {_plain('qflare_bucket_width_seconds')}", "bound"),
                    ),
                ),
                Chart(
                    title="Age of the announced bucket",
                    about="Rises to the width and begins again; above it a worker hangs behind.",
                    unit="s",
                    queries=(
                        Query(_plain("qflare_bucket_age_seconds"), "age"),
                        Query(_plain("qflare_bucket_width_seconds"), "width"),
                    ),
                ),
                Chart(
                    title="The turn",
                    about="Duration of the newest turn, and of a step of it.",
                    unit="s",
                    queries=(
                        Query(_plain("qflare_turn_seconds"), "{{sweep}} sweep"),
                        Query(_quantile(0.99, "qflare_turn_step_seconds", "job"), "step, 99 %"),
                    ),
                ),
                Chart(
                    title="Sessions of the turn",
                    about="Chain keys that the newest turn carried.",
                    unit="short",
                    queries=(Query(_plain("qflare_turn_chain_keys"), "chain keys"),),
                ),
                Chart(
                    title="Steps of the turn",
                    about="Those that are not done at the end of the bucket lose their sessions.",
                    unit="short",
                    queries=(
                        Query(_plain("qflare_turn_steps"), "steps"),
                        Query(_plain("qflare_turn_steps_done"), "done"),
                    ),
                ),
                Chart(
                    title="Clean-up",
                    about="What it removed, a second.",
                    unit="ops",
                    queries=(
                        Query(_rate("qflare_cleanup_bucket_rows_total", "job"), "rows of bucket keys"),
                        Query(_rate("qflare_keys_destroyed_total", "job"), "sealing keys"),
                        Query(_rate("qflare_cleanup_sessions_expired_total", "job"), "sessions"),
                    ),
                ),
                Chart(
                    title="Certificate",
                    about="Time that is left of it.",
                    unit="s",
                    queries=(Query(_plain("qflare_certificate_seconds_left"), "left"),),
                ),
            ),
        ),
        Row(
            title="Evidence",
            charts=(
                Chart(
                    title="Entries of the log",
                    about="Entries written a second.",
                    unit="ops",
                    queries=(Query(f"deriv({_plain('qflare_audit_entries')}{_RATE})", "entries"),),
                ),
                Chart(
                    title="Entries without a signed head",
                    about="They get one with the next session at the latest.",
                    unit="short",
                    queries=(Query(_plain("qflare_audit_unsigned_entries"), "entries"),),
                ),
                Chart(
                    title="Lag of the signed head",
                    about="Its age where entries wait for one; rises on a server where nobody comes.",
                    unit="s",
                    queries=(Query(_plain("qflare_audit_lag_seconds"), "lag"),),
                ),
                Chart(
                    title="Failures of the log",
                    about="Entries not appended, heads not signed or not stored; the reason names error and SQLSTATE.",
                    unit="ops",
                    queries=(Query(_rate("qflare_audit_failures_total", "step, reason"), "{{step}}: {{reason}}"),),
                ),
                Chart(
                    title="Evidence that was only counted",
                    about="Events about refusals beyond the bound of a minute.",
                    unit="ops",
                    queries=(Query(_rate("qflare_refusal_events_left_out_total", "job"), "left out"),),
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
                Chart(
                    title="Workers",
                    about="Those that serve, those that there should be, and those that do not tell their figures.",
                    unit="short",
                    queries=(
                        Query(_plain("qflare_workers"), "serve"),
                        Query(_plain("qflare_workers_wanted"), "wanted"),
                        Query(_plain("qflare_workers_silent"), "silent"),
                    ),
                ),
                Chart(
                    title="Restarts",
                    about="Workers started in place of ones that had ended, in an hour.",
                    unit="short",
                    queries=(Query(f"increase({_plain('qflare_worker_restarts_total')}[1h])", "restarts"),),
                ),
                Chart(
                    title="Ready",
                    about="1 where every worker can use it.",
                    unit="short",
                    queries=(Query(_plain("qflare_ready"), "{{part}}"),),
                ),
                Chart(
                    title="Requests under way",
                    about="With a body; and the bytes that they hold.",
                    unit="short",
                    queries=(Query(_plain("qflare_http_requests"), "requests"),),
                ),
                Chart(
                    title="Bytes of bodies",
                    about="Held in memory beyond what each request may always hold.",
                    unit="bytes",
                    queries=(Query(_plain("qflare_http_body_bytes"), "bytes"),),
                ),
                Chart(
                    title="Versions",
                    about="What runs.",
                    unit="short",
                    queries=(Query(_plain("qflare_build_info"), "{{version}}, liboqs {{liboqs}}, {{engine}}"),),
                ),
            ),
        ),
        Row(
            title="Resources",
            charts=(
                Chart(
                    title="Processor",
                    about="Of all workers; 1 is one core.",
                    unit="percentunit",
                    queries=(Query(_rate("qflare_worker_cpu_seconds_total", "job"), "workers"),),
                ),
                Chart(
                    title="Memory",
                    about="Of all workers.",
                    unit="bytes",
                    queries=(Query(_plain("qflare_worker_resident_bytes"), "workers"),),
                ),
                Chart(
                    title="Connections to the database",
                    about="Near the most, statements wait for each other.",
                    unit="short",
                    queries=(
                        Query(_plain("qflare_pool_connections"), "{{state}}"),
                        Query(_plain("qflare_pool_connections_max"), "most"),
                    ),
                ),
                Chart(
                    title="Jobs",
                    about="That run in a thread or wait for one, and batches under way.",
                    unit="short",
                    queries=(
                        Query(_plain("qflare_jobs"), "jobs"),
                        Query(_plain("qflare_queue_batches"), "{{operation}}"),
                    ),
                ),
                Chart(
                    title="Reserves",
                    about="What is ready.",
                    unit="short",
                    queries=(Query(_plain("qflare_reserve_ready"), "{{reserve}}"),),
                ),
                Chart(
                    title="Use of the reserves",
                    about="Missed ones were made while a caller waited.",
                    unit="ops",
                    queries=(Query(_rate("qflare_reserve_items_total", "reserve, event"), "{{reserve}} {{event}}"),),
                ),
                Chart(
                    title="Wait of all items",
                    about="Seconds waited a second: how many items wait at a time.",
                    unit="short",
                    queries=(Query(_rate("qflare_item_wait_seconds_total", "operation"), "{{operation}}"),),
                ),
                Chart(
                    title="Care",
                    about="Time since a worker's last round of care, time of a clean-up, and rounds that failed.",
                    unit="s",
                    queries=(
                        Query(_plain("qflare_maintenance_age_seconds"), "age"),
                        Query(_quantile(0.99, "qflare_cleanup_seconds", "job"), "clean-up, 99 %"),
                        Query(f"increase({_plain('qflare_maintenance_failures_total')}[1h])", "failures an hour"),
                    ),
                ),
                Chart(
                    title="The detector",
                    about="Observations a second, those that wait, and sightings that wait for the database.",
                    unit="short",
                    queries=(
                        Query(_rate("qflare_detector_observations_total", "job"), "observations a second"),
                        Query(_plain("qflare_detector_waiting"), "waiting"),
                        Query(_plain("qflare_detector_unreported"), "unreported"),
                    ),
                ),
                Chart(
                    title="Buckets",
                    about="The server's bucket, and that of the newest turn.",
                    unit="none",
                    queries=(
                        Query(_plain("qflare_bucket_index"), "bucket"),
                        Query(_plain("qflare_turn_bucket_index"), "turn"),
                    ),
                ),
            ),
        ),
    ),
)

BOARDS: Final = (_HANDSHAKES, _KEYS, _WORKERS)
