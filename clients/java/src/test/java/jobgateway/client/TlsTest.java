package jobgateway.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;

import io.grpc.TlsServerCredentials;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.util.Base64;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

@Timeout(60)
class TlsTest {
  @TempDir static Path folder;

  private static Identity one;
  private static Identity two;

  /** A self-signed certificate and its key, in PEM. */
  private record Identity(Path certificate, Path key) {}

  private static Identity identity(String name) throws Exception {
    var store = folder.resolve(name + ".p12");
    var password = "password";
    var keytool = Path.of(System.getProperty("java.home"), "bin", "keytool");
    var command =
        "%s -genkeypair -alias a -keyalg EC -dname CN=%s -ext san=ip:127.0.0.1 -keystore %s -storepass %s"
            .formatted(keytool, name, store, password);
    assertEquals(0, new ProcessBuilder(command.split(" ")).start().waitFor());
    var keys = KeyStore.getInstance(store.toFile(), password.toCharArray());
    return new Identity(
        write(name, "CERTIFICATE", keys.getCertificate("a").getEncoded()),
        write(name, "PRIVATE KEY", keys.getKey("a", password.toCharArray()).getEncoded()));
  }

  private static Path write(String name, String kind, byte[] bytes) throws IOException {
    var body = Base64.getMimeEncoder().encodeToString(bytes);
    return Files.writeString(
        folder.resolve(name + " " + kind),
        "-----BEGIN %s-----\n%s\n-----END %s-----\n".formatted(kind, body, kind));
  }

  @BeforeAll
  static void createIdentities() throws Exception {
    one = identity("one");
    two = identity("two");
  }

  @Test
  void mutualTlsNeedsACertificate() throws Exception {
    var credentials =
        TlsServerCredentials.newBuilder()
            .keyManager(one.certificate().toFile(), one.key().toFile())
            .trustManager(two.certificate().toFile())
            .clientAuth(TlsServerCredentials.ClientAuth.REQUIRE)
            .build();
    try (var gateway = new ScriptedGateway(credentials)) {
      gateway.onWatch =
          (call, request, response) -> {
            response.onNext(Events.end(7));
            response.onCompleted();
          };
      var mutual = Tls.fromFiles(one.certificate(), two.certificate(), two.key());
      try (var client = Client.builder(gateway.target()).tls(mutual).build()) {
        assertEquals(7, client.watch(7).finish().job().getUid());
      }
      var oneSided = Tls.fromFiles(one.certificate(), null, null);
      try (var client = Client.builder(gateway.target()).tls(oneSided).build()) {
        var options =
            Options.defaults()
                .onRetry(
                    retry -> {
                      throw retry.failure();
                    });
        assertThrows(GatewayException.class, client.watch(7, options)::finish);
      }
      assertEquals(1, gateway.watches.size());
    }
  }

  @Test
  void filesThatCannotBeUsedAreRejected() throws Exception {
    assertThrows(IOException.class, () -> Tls.fromFiles(folder.resolve("none"), null, null));
    var unusable =
        new Path[][] {
          {one.key(), null, null},
          {null, one.certificate(), null},
          {null, null, one.key()},
          {null, one.key(), one.key()},
          {null, one.certificate(), one.certificate()},
          {null, one.certificate(), two.key()}
        };
    for (var files : unusable) {
      assertThrows(
          IllegalArgumentException.class, () -> Tls.fromFiles(files[0], files[1], files[2]));
    }
    Tls.fromFiles(null, one.certificate(), one.key());
  }
}
