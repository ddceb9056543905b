"""Metrics, traces and logs. Imports nothing: OpenTelemetry is loaded only if an endpoint is set."""
