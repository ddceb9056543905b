package jobgateway.client;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotNull;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.grpc.TlsServerCredentials;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.util.Base64;
import java.util.Map;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;

@Timeout(60)
class TlsTest {
  private static final Options ONE_ATTEMPT =
      Options.defaults()
          .onRetry(
              retry -> {
                throw retry.failure();
              });

  @TempDir static Path folder;

  private static Identity one;
  private static Identity two;
  private static Identity rsa;
  private static Identity edwards;

  /** A self-signed certificate and its key, in PEM. */
  private record Identity(Path certificate, Path key) {}

  private static Identity identity(String name, String algorithm) throws Exception {
    var store = folder.resolve(name + ".p12");
    var password = "password";
    var keytool = Path.of(System.getProperty("java.home"), "bin", "keytool");
    var command =
        "%s -genkeypair -alias a -keyalg %s -dname CN=%s -ext san=ip:127.0.0.1 -keystore %s -storepass %s"
            .formatted(keytool, algorithm, name, store, password);
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
    one = identity("one", "EC");
    two = identity("two", "EC");
    rsa = identity("rsa", "RSA");
    edwards = identity("edwards", "Ed25519");
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
      try (var client = Client.builder(gateway.target()).credentials(mutual).build()) {
        assertEquals(7, client.watch(7).finish().job().getUid());
      }
      var oneSided = Tls.fromFiles(one.certificate());
      try (var client = Client.builder(gateway.target()).credentials(oneSided).build()) {
        assertThrows(GatewayException.class, client.watch(7, ONE_ATTEMPT)::finish);
      }
      var strange = Tls.fromFiles(two.certificate());
      try (var client = Client.builder(gateway.target()).credentials(strange).build()) {
        var failure = assertThrows(GatewayException.class, client.watch(7, ONE_ATTEMPT)::finish);
        assertTrue(failure.getMessage().contains("certification path"), failure.getMessage());
        assertEquals(1, failure.getMessage().lines().count());
      }
      assertEquals(1, gateway.watches.size());
    }
  }

  @Test
  void filesThatCannotBeUsedAreRejected() throws Exception {
    assertThrows(IOException.class, () -> Tls.fromFiles(folder.resolve("none")));
    assertThrows(IllegalArgumentException.class, () -> Tls.fromFiles(one.key()));
    var problems =
        Map.of(
            new Path[] {one.key(), one.key()}, "has no certificate",
            new Path[] {one.certificate(), one.certificate()}, "has no private key",
            new Path[] {one.certificate(), two.key()}, "not the key of " + one.certificate(),
            new Path[] {one.certificate(), rsa.key()}, "not of the kind of the certificate: EC",
            new Path[] {edwards.certificate(), edwards.key()}, "RSA or EC (got EdDSA)",
            new Path[] {one.certificate(), as(one.key(), "ENCRYPTED PRIVATE KEY")}, "password",
            new Path[] {one.certificate(), as(one.key(), "EC PRIVATE KEY")}, "openssl pkcs8",
            new Path[] {one.certificate(), damaged(one.key())}, "damaged",
            new Path[] {damaged(one.certificate()), one.key()}, "invalid certificate");
    problems.forEach(
        (files, problem) -> {
          var error =
              assertThrows(IllegalArgumentException.class, () -> Tls.fromFiles(files[0], files[1]));
          assertTrue(error.getMessage().contains(problem), error.getMessage());
          assertTrue(error.getMessage().contains(folder.toString()), error.getMessage());
        });
    Tls.fromFiles(rsa.certificate(), rsa.key());
  }

  @Test
  void aPasswordInTheHeadersOfAKeyIsNamed() throws Exception {
    var text = Files.readString(as(one.key(), "RSA PRIVATE KEY"));
    var file = folder.resolve("headers");
    Files.writeString(file, text.replaceFirst("\n", "\nProc-Type: 4,ENCRYPTED\n\n"));
    var error =
        assertThrows(IllegalArgumentException.class, () -> Tls.fromFiles(one.certificate(), file));
    assertTrue(error.getMessage().contains("password"));
  }

  @Test
  void aFileMayHaveOtherTextAndBlocks() throws Exception {
    var text = "Bag Attributes\n    friendlyName: caf\u00e9 AAAA\n";
    var both = folder.resolve("both");
    var key = text + Files.readString(two.key());
    Files.writeString(both, key + text + Files.readString(two.certificate()));
    assertNotNull(Tls.fromFiles(both, both, both));
    Tls.fromFiles(both, both);
    Tls.fromFiles(both);
  }

  /** Returns a file with the contents of another one, as if they were of this kind. */
  private static Path as(Path file, String kind) throws IOException {
    var text = Files.readString(file).replace("PRIVATE KEY", kind);
    return Files.writeString(folder.resolve("as " + kind), text);
  }

  private static Path damaged(Path file) throws IOException {
    var text = Files.readString(file);
    return Files.writeString(
        folder.resolve(file.getFileName() + " damaged"), text.replaceFirst("\nM", "\nA"));
  }
}
