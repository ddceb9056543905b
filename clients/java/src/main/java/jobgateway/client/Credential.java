package jobgateway.client;

import static java.util.concurrent.TimeUnit.NANOSECONDS;

import io.grpc.Context;
import io.grpc.Status;
import java.util.Objects;
import java.util.concurrent.locks.ReentrantLock;
import java.util.function.Supplier;

/** The token of a client, which its calls share. */
final class Credential {
  private final Supplier<String> login;

  /** Held during a login, so that concurrent calls share it. */
  private final ReentrantLock lock = new ReentrantLock();

  private boolean known;
  private String token;

  /**
   * @param login returns the token; null if it never changes
   * @param token the token if it never changes; null if there is none
   */
  Credential(Supplier<String> login, String token) {
    this.login = login;
    this.token = valid(token);
    known = login == null;
  }

  /** Returns the current token, after the first login; null if there is none. */
  String token() throws InterruptedException {
    lock();
    try {
      if (!known) {
        token = valid(login.get());
        known = true;
      }
      return token;
    } finally {
      lock.unlock();
    }
  }

  /**
   * Logs in, once for all calls that had the rejected token.
   *
   * @return whether there is a token for another attempt
   */
  boolean renew(String rejected) throws InterruptedException {
    lock();
    try {
      if (!Objects.equals(token, rejected)) {
        return true;
      }
      var fresh = login == null ? null : valid(login.get());
      if (fresh != null) {
        token = fresh;
      }
      return fresh != null;
    } finally {
      lock.unlock();
    }
  }

  /** Waits for a login of another thread, until the deadline of this thread's {@code Context}. */
  private void lock() throws InterruptedException {
    var deadline = Context.current().getDeadline();
    if (deadline == null) {
      lock.lockInterruptibly();
    } else if (!lock.tryLock(deadline.timeRemaining(NANOSECONDS), NANOSECONDS)) {
      throw new GatewayException(
          Status.Code.DEADLINE_EXCEEDED, "the deadline passed during a login of another call");
    }
  }

  private static String valid(String token) {
    if (token != null && !token.chars().allMatch(each -> each > ' ' && each < 0x7f)) {
      throw new IllegalArgumentException(
          "the token has a line break or another character that no header can carry: remove white"
              + " space at its ends");
    }
    return token;
  }
}
