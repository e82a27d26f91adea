"""
The demo: federated training on the digits data under QFLARE, beside the same training without it, and a report.

Nothing is imported here: the modules need numpy, scikit-learn, matplotlib and rich (`qflare[demo]`), and a device
process must get by with numpy alone.
"""
