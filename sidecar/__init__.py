"""tsa-sidecar: KumoMTA's Traffic Shaping Automation, from beside the server."""

__version__ = "0.1.0"
