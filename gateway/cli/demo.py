"""`demo`: jobs through a gateway and a simulated upstream, which run only for the demo."""


def demo() -> None:
    """Start a gateway and a simulated upstream, run jobs through both, and stop them. It takes 15 seconds."""
    from gateway.cli import demo_jobs

    demo_jobs.show()
