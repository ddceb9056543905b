package jobgateway.client;

import io.grpc.Context;
import java.util.concurrent.CompletableFuture;
import java.util.function.BooleanSupplier;
import java.util.function.Supplier;

/** The token of a client, which its calls share. */
final class Credential {

  /** The result of a login. Two logins may return the same token, so that objects are compared. */
  static final class Login {
    private final String token;

    private Login(String token) {
      this.token = token;
    }

    /** Returns the token; null if there is none. */
    String token() {
      return token;
    }
  }

  private final Supplier<String> source;
  private Login current;

  /** The login in progress; otherwise null. */
  private CompletableFuture<Login> pending;

  private Credential(Supplier<String> source, Login current) {
    this.source = source;
    this.current = current;
  }

  /** Returns a token that never changes; null means none. */
  static Credential ofToken(String token) {
    return new Credential(null, new Login(valid(token)));
  }

  /** Returns the token of a function, which returns null if it has no (other) token. */
  static Credential ofLogin(Supplier<String> source) {
    return new Credential(source, null);
  }

  /** Returns the current login, after the first one. Also during a later login. */
  Login current(Scope scope) throws InterruptedException {
    return logIn(() -> current != null, scope);
  }

  /**
   * Logs in, once for all calls with the rejected login.
   *
   * @return whether there is another login
   */
  boolean renew(Login rejected, Scope scope) throws InterruptedException {
    return source != null && logIn(() -> current != rejected, scope) != rejected;
  }

  /** Returns the login, after another one if it is not up to date. */
  private Login logIn(BooleanSupplier isUpToDate, Scope scope) throws InterruptedException {
    for (boolean isFirst = true; ; isFirst = false) {
      boolean isShared;
      CompletableFuture<Login> login;
      synchronized (this) {
        if (isUpToDate.getAsBoolean()) {
          return current;
        }
        isShared = pending != null;
        login = begin();
      }
      try {
        return scope.await(login);
      } catch (RuntimeException | Error failed) {
        // One failed login does not end all calls: those that did not begin it log in once more,
        // together.
        if (!isFirst || !isShared || !login.isCompletedExceptionally()) {
          throw failed;
        }
      }
    }
  }

  /** Begins a login, unless there is one. Its thread outlives the calls that wait for it. */
  private synchronized CompletableFuture<Login> begin() {
    if (pending == null) {
      var login = new CompletableFuture<Login>();
      // The end of the call that begins it must not end it for the others.
      var thread =
          new Thread(Context.current().fork().wrap(() -> logIn(login)), "jobgateway-login");
      thread.setDaemon(true);
      thread.start();
      pending = login;
    }
    return pending;
  }

  private void logIn(CompletableFuture<Login> login) {
    try {
      var token = valid(source.get());
      synchronized (this) {
        if (token != null || current == null) {
          current = new Login(token);
        }
        pending = null;
        login.complete(current);
      }
    } catch (Throwable error) {
      synchronized (this) {
        pending = null;
        login.completeExceptionally(error);
      }
    }
  }

  private static String valid(String token) {
    if (token != null && !token.chars().allMatch(each -> each > ' ' && each < 0x7f)) {
      throw new IllegalArgumentException(
          "the token has a line break or another character that no header can carry: remove white"
              + " space at its ends");
    }
    if (token != null && token.isEmpty()) {
      throw new IllegalArgumentException("the token is empty: use null if there is none");
    }
    return token;
  }
}
