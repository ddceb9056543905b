package jobgateway.client;

import io.grpc.ChannelCredentials;
import io.grpc.TlsChannelCredentials;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.PublicKey;
import java.security.Signature;
import java.security.cert.CertificateException;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;

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
   * @throws IllegalArgumentException if a file has other contents, the key is not that of the
   *     certificate, or there is only one of them
   */
  public static ChannelCredentials fromFiles(Path authorities, Path certificate, Path key)
      throws IOException {
    if ((certificate == null) != (key == null)) {
      throw new IllegalArgumentException(
          "certificate and key: both are needed; give both or neither");
    }
    // gRPC would accept most mistakes, and each connection would fail.
    var tls = TlsChannelCredentials.newBuilder();
    if (authorities != null) {
      var trusted = Files.readAllBytes(authorities);
      publicKey(authorities, trusted);
      tls.trustManager(new ByteArrayInputStream(trusted));
    }
    if (certificate != null) {
      var chain = Files.readAllBytes(certificate);
      var secret = Files.readAllBytes(key);
      if (!isPair(publicKey(certificate, chain), secret)) {
        throw new IllegalArgumentException(
            key + ": not the key of " + certificate + " in PEM and PKCS #8");
      }
      tls.keyManager(new ByteArrayInputStream(chain), new ByteArrayInputStream(secret));
    }
    return tls.build();
  }

  /** Returns the public key of the first certificate. */
  private static PublicKey publicKey(Path file, byte[] pem) {
    try {
      var certificates =
          CertificateFactory.getInstance("X.509")
              .generateCertificates(new ByteArrayInputStream(pem));
      if (!certificates.isEmpty()) {
        return certificates.iterator().next().getPublicKey();
      }
    } catch (CertificateException invalid) {
      // The message below says the same.
    }
    throw new IllegalArgumentException(file + ": no certificate in PEM");
  }

  /** Returns whether a signature with the key passes the check with the public key. */
  private static boolean isPair(PublicKey publicKey, byte[] pem) {
    try {
      var text = new String(pem, StandardCharsets.US_ASCII).replaceAll("-----[A-Z ]+-----", "");
      var key = new PKCS8EncodedKeySpec(Base64.getMimeDecoder().decode(text));
      var algorithm = publicKey.getAlgorithm();
      var signature =
          Signature.getInstance(
              switch (algorithm) {
                case "RSA" -> "SHA256withRSA";
                case "EC" -> "SHA256withECDSA";
                default -> algorithm;
              });
      signature.initSign(KeyFactory.getInstance(algorithm).generatePrivate(key));
      signature.update(pem);
      var signed = signature.sign();
      signature.initVerify(publicKey);
      signature.update(pem);
      return signature.verify(signed);
    } catch (GeneralSecurityException | IllegalArgumentException invalid) {
      return false;
    }
  }
}
