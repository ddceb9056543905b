"""What tests share: a stepped clock, a scripted upstream, and a gateway on real sockets."""
