package jobgateway.client;

import static java.util.concurrent.TimeUnit.NANOSECONDS;
import static java.util.concurrent.TimeUnit.SECONDS;

import io.grpc.Deadline;
import io.grpc.ManagedChannel;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.concurrent.CompletableFuture;
import java.util.function.Supplier;

/**
 * The current connection of a client, and the older ones that still have calls. The first call that
 * finds a connection broken replaces it for all. The old one is closed after its last call.
 */
final class Connections implements AutoCloseable {

  /** A connection, and the number of its calls. */
  static final class Connection {
    private final ManagedChannel channel;
    private int calls;

    private Connection(ManagedChannel channel) {
      this.channel = channel;
    }

    ManagedChannel channel() {
      return channel;
    }
  }

  private final Supplier<ManagedChannel> connect;
  private final Set<Connection> open = new HashSet<>();
  private final CompletableFuture<Void> closed = new CompletableFuture<>();
  private Connection current;

  Connections(Supplier<ManagedChannel> connect) {
    this.connect = connect;
    current = open();
  }

  /** Returns the current connection for one call. Release it after the call. */
  synchronized Connection acquire() {
    throwIfClosed();
    current.calls++;
    return current;
  }

  synchronized void release(Connection connection) {
    connection.calls--;
    closeUnused(connection);
  }

  /** Replaces the connection {@code used}, unless another call has replaced it already. */
  synchronized void replace(Connection used) {
    throwIfClosed();
    if (used == current) {
      current = open();
      closeUnused(used);
    }
  }

  /** Returns a future that completes when the client is closed. */
  CompletableFuture<Void> closed() {
    return closed;
  }

  private void throwIfClosed() {
    if (closed.isDone()) {
      throw GatewayException.closed("the client is closed");
    }
  }

  /** Closes all connections. Calls in flight fail. */
  @Override
  public void close() {
    List<Connection> closing;
    synchronized (this) {
      closed.complete(null);
      closing = List.copyOf(open);
      open.clear();
    }
    closing.forEach(connection -> connection.channel.shutdownNow());
    var deadline = Deadline.after(5, SECONDS);
    try {
      for (var connection : closing) {
        connection.channel.awaitTermination(deadline.timeRemaining(NANOSECONDS), NANOSECONDS);
      }
    } catch (InterruptedException stopped) {
      Thread.currentThread().interrupt();
    }
  }

  private Connection open() {
    var connection = new Connection(connect.get());
    open.add(connection);
    return connection;
  }

  private void closeUnused(Connection connection) {
    if (connection != current && connection.calls == 0 && open.remove(connection)) {
      connection.channel.shutdown();
    }
  }
}
