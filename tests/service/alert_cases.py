"""For each alert a story in which it fires and one in which it does not: series as promtool writes them, 15 s apart."""

WIDTH = ("qflare_bucket_width_seconds", "300x200")
REFUSED = 'qflare_handshakes_total{form="hello",result="refused",reason="tag"}'
ESTABLISHED = 'qflare_handshakes_total{form="hello",result="established",reason="none"}'
FAILED = 'qflare_handshakes_total{form="hello",result="failed",reason="StoreUnavailableError"}'
WAITS = 'qflare_batch_wait_seconds_bucket{operation="confirm",le="%s"}'

CASES = {
    "QflareAbsent": (
        [("other_metric", "1x200")],
        [("qflare_workers_wanted", "2x200")],
        [{}],
    ),
    "QflareWorkersMissing": (
        [("qflare_workers", "1x200"), ("qflare_workers_wanted", "2x200")],
        # One that is replaced within a minute.
        [("qflare_workers", "2x10 1x3 2x187"), ("qflare_workers_wanted", "2x200")],
        [{}],
    ),
    "QflareWorkerSilent": ([("qflare_workers_silent", "1x200")], [("qflare_workers_silent", "0x200")], [{}]),
    "QflareWorkersRestart": (
        [("qflare_worker_restarts_total", "0x100 5x100")],
        [("qflare_worker_restarts_total", "0x100 1x100")],
        [{}],
    ),
    "QflareNotReady": (
        [('qflare_ready{part="keeper"}', "1x10 0x190"), ('qflare_ready{part="database"}', "1x200")],
        [('qflare_ready{part="keeper"}', "1x200")],
        [{"part": "keeper"}],
    ),
    "QflareHandshakesRefused": (
        [(REFUSED, "0+10x200"), (ESTABLISHED, "0+5x200")],
        [(REFUSED, "0+4x200"), (ESTABLISHED, "0+5x200")],
        [{}],
    ),
    "QflareHandshakesFail": ([(FAILED, "0+1x200")], [(FAILED, "3x200"), (REFUSED, "0+10x200")], [{}]),
    "QflareForgeries": (
        [('qflare_refusals_total{step="record",reason="tag"}', "0+20x200")],
        [
            ('qflare_refusals_total{step="record",reason="tag"}', "0+10x200"),
            ('qflare_refusals_total{step="confirm",reason="expired"}', "0+900x200"),
        ],
        [{}],
    ),
    "QflareOverloaded": (
        # Each of the three alone, on a server of its own.
        [
            ('qflare_queue_overloads_total{operation="hello",job="a"}', "0+1x200"),
            ('qflare_queue_displaced_total{operation="hello",job="b"}', "0+1x200"),
            ('qflare_http_refusals_total{step="hello",reason="overloaded",job="c"}', "0+1x200"),
        ],
        [
            ('qflare_queue_overloads_total{operation="hello"}', "7x200"),
            ('qflare_http_refusals_total{step="hello",reason="client-gone"}', "0+1x200"),
        ],
        [{"job": "a"}, {"job": "b"}, {"job": "c"}],
    ),
    "QflareSlow": (
        [(WAITS % "0.5", "0+1x200"), (WAITS % "1.0", "0+9x200"), (WAITS % "+Inf", "0+9x200")],
        [(WAITS % "0.1", "0+9x200"), (WAITS % "0.5", "0+9x200"), (WAITS % "+Inf", "0+9x200")],
        [{}],
    ),
    "QflarePoolFull": (
        [('qflare_pool_connections{state="used"}', "8x200"), ("qflare_pool_connections_max", "8x200")],
        [('qflare_pool_connections{state="used"}', "7x200"), ("qflare_pool_connections_max", "8x200")],
        [{}],
    ),
    "QflareBucketLate": (
        [WIDTH, ("qflare_bucket_age_seconds", "0+15x200")],
        [WIDTH, ("qflare_bucket_age_seconds", "310x200")],
        [{}],
    ),
    "QflareKeyOutlives": (
        [
            WIDTH,
            ('qflare_oldest_key_age_seconds{place="keeper"}', "900x200"),
            ('qflare_oldest_key_age_seconds{place="database"}', "599x200"),
        ],
        [WIDTH, ('qflare_oldest_key_age_seconds{place="keeper"}', "600x200")],
        [{"place": "keeper"}],
    ),
    "QflareTurnLags": (
        [
            WIDTH,
            ("qflare_turn_steps", "64x200"),
            ("qflare_turn_steps_done", "63x200"),
            ("qflare_turn_bucket_index", "7x200"),
            ("qflare_bucket_index", "7x200"),
            ("qflare_bucket_age_seconds", "200x200"),
        ],
        [
            WIDTH,
            ("qflare_turn_steps", "64x200"),
            ("qflare_turn_steps_done", "63x200"),
            ("qflare_turn_bucket_index", "7x200"),
            ("qflare_bucket_index", "7x200"),
            ("qflare_bucket_age_seconds", "20x200"),
        ],
        [{}],
    ),
    "QflareMaintenanceStuck": (
        [("qflare_maintenance_age_seconds", "0+15x200")],
        [("qflare_maintenance_age_seconds", "40x200")],
        [{}],
    ),
    "QflareCertificateEnds": (
        [("qflare_certificate_seconds_left", "2591999x200")],
        [("qflare_certificate_seconds_left", "2592000x200")],
        [{}],
    ),
    "QflareAuditLags": (
        [("qflare_audit_lag_seconds", "0+15x200"), (ESTABLISHED, "0+1x200")],
        # A server where nobody comes: what waits is signed with the next session.
        [("qflare_audit_lag_seconds", "0+15x200"), (ESTABLISHED, "4x200")],
        [{}],
    ),
    "QflareAuditFails": (
        [('qflare_audit_failures_total{step="sign",reason="EntropyError"}', "0+1x200")],
        # One that the next try made good.
        [('qflare_audit_failures_total{step="store",reason="StoreUnavailableError/57P01"}', "0x90 1x110")],
        [{}],
    ),
    "QflareEvidenceLeftOut": (
        [("qflare_refusal_events_left_out_total", "0+1x200")],
        [("qflare_refusal_events_left_out_total", "9x200")],
        [{}],
    ),
    "QflareDetectorDrops": (
        [("qflare_detector_dropped_total", "0+1x200")],
        [("qflare_detector_dropped_total", "9x200")],
        [{}],
    ),
    "QflareDetectorUnreported": (
        [("qflare_detector_unreported", "101x200")],
        [("qflare_detector_unreported", "100x200")],
        [{}],
    ),
    "QflareDetectorAlarm": (
        [
            ('qflare_detector_alarms_total{signal="clone"}', "0x110 1x90"),
            ('qflare_detector_alarms_total{signal="flood"}', "1x110 2x90"),
        ],
        [('qflare_detector_alarms_total{signal="clone"}', "1x200")],
        [{"signal": "clone"}, {"signal": "flood"}],
    ),
    "QflareIncidentWaits": (
        [('qflare_incidents{severity="critical",state="open"}', "1x200")],
        [
            # Somebody looks at it, and one that is over before anybody could.
            ('qflare_incidents{severity="critical",state="acknowledged"}', "1x200"),
            ('qflare_incidents{severity="critical",state="open"}', "0x100 1x10 0x90"),
            ('qflare_incidents{severity="error",state="open"}', "9x200"),
        ],
        [{"state": "open"}],
    ),
    "QflareResponseWaits": (
        [("qflare_responses_waiting_seconds", "3601x200")],
        [("qflare_responses_waiting_seconds", "3600x200")],
        [{}],
    ),
    "QflareResponsesBounded": (
        [('qflare_responses_refused_total{action="quarantine"}', "0x100 1x100")],
        [('qflare_responses_refused_total{action="quarantine"}', "9x200")],
        [{"action": "quarantine"}],
    ),
}
"""By alert: series with which it fires at 30 minutes, series with which it does not, and the labels it fires with."""
