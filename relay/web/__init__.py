"""What the owner looks at: the status page, and /healthz and /metrics for programs."""
