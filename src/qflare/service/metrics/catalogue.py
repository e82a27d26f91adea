"""
Every metric, in the order in which `/metrics` shows them.

No label holds the name of a device, a tenant or a session: each takes its values from a fixed set, so that the number
of series does not grow with the fleet, and whoever may read metrics learns nothing about one device.
"""

from __future__ import annotations

from typing import Final

from qflare.model.histogram import ITEMS, SECONDS
from qflare.service.metrics.metric import Join, Kind, Metric

CALL_SECONDS: Final = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0)
"""Upper bounds for calls into C."""


def _counter(name: str, text: str, *labels: str) -> Metric:
    return Metric(name=name, kind=Kind.COUNTER, help=text, labels=labels)


def _gauge(name: str, text: str, *labels: str, join: Join = Join.SUM) -> Metric:
    return Metric(name=name, kind=Kind.GAUGE, help=text, labels=labels, join=join)


def _histogram(name: str, text: str, *labels: str, bounds: tuple[float, ...]) -> Metric:
    return Metric(name=name, kind=Kind.HISTOGRAM, help=text, labels=labels, bounds=bounds)


CATALOGUE: Final = (
    # --- workers ---
    _gauge("qflare_build_info", "1, with the versions that run.", "version", "liboqs", "engine", join=Join.MAX),
    _gauge("qflare_workers_wanted", "Worker processes that there should be."),
    _gauge("qflare_workers", "Worker processes that serve."),
    _gauge("qflare_workers_silent", "Worker processes that did not tell their figures in time; their last ones stand."),
    _counter("qflare_worker_restarts_total", "Worker processes started in place of ones that had ended."),
    _counter("qflare_worker_cpu_seconds_total", "Processor time of the workers, all their threads."),
    _gauge("qflare_worker_resident_bytes", "Memory of the workers that lies in RAM."),
    _gauge("qflare_ready", "1 where a part can be used by every worker, else 0.", "part", join=Join.MIN),
    # --- handshakes ---
    _counter(
        "qflare_handshakes_total",
        "Handshakes that ended, by form, result and true reason.",
        "form",
        "result",
        "reason",
    ),
    _counter("qflare_refusals_total", "Messages refused, by step and true reason.", "step", "reason"),
    _counter("qflare_refusal_events_left_out_total", "Audit events about refusals that were only counted."),
    _counter("qflare_http_refusals_total", "Requests refused before the protocol saw them.", "step", "reason"),
    _histogram(
        "qflare_http_request_seconds",
        "From the begin of an HTTP request to the end of its answer, by address and kind of status.",
        "route",
        "status",
        bounds=SECONDS,
    ),
    _gauge("qflare_http_requests", "Requests with a body that are under way."),
    _gauge("qflare_http_body_bytes", "Bytes held in bodies of requests, beyond what each may always hold."),
    # --- batches ---
    _histogram("qflare_batch_items", "Items of a batch.", "operation", bounds=ITEMS),
    _histogram("qflare_batch_wait_seconds", "Longest wait of an item of a batch.", "operation", bounds=SECONDS),
    _histogram("qflare_batch_run_seconds", "From the begin of a batch to its end.", "operation", bounds=SECONDS),
    _counter("qflare_item_wait_seconds_total", "Time that all items together waited for their batch.", "operation"),
    _gauge("qflare_queue_items", "Items that wait for a batch.", "operation"),
    _gauge("qflare_queue_batches", "Batches under way.", "operation"),
    _counter("qflare_queue_overloads_total", "Calls refused since the queue was full or closed.", "operation"),
    _counter(
        "qflare_queue_displaced_total",
        "Items sent away from a full queue since a tenant with less in it needed the room.",
        "operation",
    ),
    _gauge("qflare_jobs", "Jobs that run in a thread or wait for one."),
    # --- what computes ---
    _histogram("qflare_call_seconds", "Time of a call into C, whatever its rows.", "operation", bounds=CALL_SECONDS),
    _counter("qflare_call_rows_total", "Rows of those calls.", "operation"),
    # --- the database and the keeper ---
    _gauge("qflare_pool_connections", "Connections to the database.", "state"),
    _gauge("qflare_pool_connections_max", "Most connections to the database that there may be."),
    # --- made ahead ---
    _gauge("qflare_reserve_ready", "What is ready in the reserves.", "reserve"),
    _counter("qflare_reserve_items_total", "What the reserves made, gave, missed and threw away.", "reserve", "event"),
    # --- buckets and keys ---
    _gauge("qflare_bucket_width_seconds", "Width of a bucket.", join=Join.MAX),
    _gauge("qflare_bucket_index", "The server's bucket, of the worker that is furthest behind.", join=Join.MIN),
    _gauge("qflare_bucket_age_seconds", "Time since the begin of the bucket whose key is announced.", join=Join.MAX),
    _gauge(
        "qflare_oldest_key_age_seconds",
        "Time since the begin of the oldest bucket whose key is not destroyed.",
        "place",
        join=Join.MAX,
    ),
    _gauge("qflare_certificate_seconds_left", "Time to the end of the certificate's last bucket.", join=Join.MIN),
    # --- the turn ---
    _gauge("qflare_turn_bucket_index", "The bucket of the newest turn.", join=Join.MAX),
    _gauge("qflare_turn_steps", "Steps of the newest turn.", join=Join.MAX),
    _gauge("qflare_turn_steps_done", "Steps of its first sweep that are done.", join=Join.MAX),
    _gauge("qflare_turn_seconds", "Duration of the newest turn's sweep, so far where it runs.", "sweep", join=Join.MAX),
    _gauge("qflare_turn_chain_keys", "Chain keys that the newest turn carried.", join=Join.MAX),
    _histogram("qflare_turn_step_seconds", "Time of a step of a turn.", bounds=SECONDS),
    # --- care ---
    _gauge("qflare_maintenance_age_seconds", "Time since a worker's last round of care succeeded.", join=Join.MAX),
    _counter("qflare_maintenance_failures_total", "Rounds of care that failed and were tried again."),
    _histogram("qflare_cleanup_seconds", "Time of a clean-up.", bounds=SECONDS),
    _counter("qflare_cleanup_bucket_rows_total", "Rows of bucket keys deleted."),
    _counter(
        "qflare_keys_destroyed_total", "Sealing keys of buckets destroyed in the keeper, by the turn or by a clean-up."
    ),
    _counter("qflare_cleanup_sessions_expired_total", "Sessions whose last bucket was over."),
    # --- the log ---
    _gauge("qflare_audit_entries", "Entries in the audit log.", join=Join.MAX),
    _gauge("qflare_audit_unsigned_entries", "Entries that no stored signed head covers yet.", join=Join.MIN),
    _gauge(
        "qflare_audit_lag_seconds", "Age of the newest stored signed head where entries wait for one.", join=Join.MIN
    ),
    _counter(
        "qflare_audit_failures_total",
        "Entries of their own not appended, heads not signed or not stored, by step and error.",
        "step",
        "reason",
    ),
    # --- the detector ---
    _counter("qflare_detector_observations_total", "Observations that the detector looked at."),
    _counter("qflare_detector_dropped_total", "Observations that it left out since too many waited."),
    _gauge("qflare_detector_waiting", "Observations that wait for it."),
    _counter("qflare_detector_alarms_total", "Sightings that incidents were made of.", "signal"),
    _gauge("qflare_detector_unreported", "Sightings that wait for the database."),
    # --- incidents and responses, of all tenants together ---
    _gauge("qflare_incidents", "Incidents that nobody has closed.", "severity", "state", join=Join.MAX),
    _gauge(
        "qflare_responses",
        "Responses whose state changed within the last day, by what they do and what became of them.",
        "action",
        "state",
        join=Join.MAX,
    ),
    _gauge(
        "qflare_responses_waiting",
        "Proposals that may still be confirmed, by the operator that they wait for: the first or the second.",
        "operator",
        join=Join.MAX,
    ),
    _gauge("qflare_responses_waiting_seconds", "Time that the oldest of these has waited.", join=Join.MAX),
    _counter(
        "qflare_responses_refused_total",
        "Responses that rules wanted to carry out, and that the bounds left to people.",
        "action",
    ),
)

BY_NAME: Final = {metric.name: metric for metric in CATALOGUE}
