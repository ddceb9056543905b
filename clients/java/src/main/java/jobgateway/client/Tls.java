package jobgateway.client;

import io.grpc.ChannelCredentials;
import io.grpc.TlsChannelCredentials;
import java.io.IOException;
import java.nio.file.Path;

/** TLS from files. */
public final class Tls {
  private Tls() {}

  /**
   * Returns the credentials for TLS from files in PEM.
   *
   * @param authorities the trusted ones; null means those of Java
   * @param certificate the certificate of the client and its chain, for mutual TLS, or null
   * @param key the private key of the certificate in PKCS #8, or null
   * @throws IOException if a file cannot be read
   * @throws IllegalArgumentException if there is only a certificate or only a key
   */
  public static ChannelCredentials fromFiles(Path authorities, Path certificate, Path key)
      throws IOException {
    if ((certificate == null) != (key == null)) {
      throw new IllegalArgumentException(
          "certificate and key: both are needed; give both or neither");
    }
    var tls = TlsChannelCredentials.newBuilder();
    if (authorities != null) {
      tls.trustManager(authorities.toFile());
    }
    if (certificate != null) {
      tls.keyManager(certificate.toFile(), key.toFile());
    }
    return tls.build();
  }
}
