package jobgateway.client;

import io.grpc.ChannelCredentials;
import io.grpc.TlsChannelCredentials;
import java.io.IOException;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.PrivateKey;
import java.security.PublicKey;
import java.security.Signature;

/**
 * TLS from files in PEM, which may contain other text and blocks. gRPC accepts most mistakes in
 * them, and then each connection fails, so that the files are checked here.
 */
public final class Tls {
  private Tls() {}

  /**
   * Returns the credentials for TLS with the authorities of a file.
   *
   * @throws IOException if the file cannot be read
   * @throws IllegalArgumentException if it has no certificate
   */
  public static ChannelCredentials fromFiles(Path authorities) throws IOException {
    return trusting(authorities).build();
  }

  /**
   * Returns the credentials for mutual TLS with the authorities of Java.
   *
   * @see #fromFiles(Path, Path, Path)
   */
  public static ChannelCredentials fromFiles(Path certificate, Path key) throws IOException {
    return identifiedBy(certificate, key, TlsChannelCredentials.newBuilder()).build();
  }

  /**
   * Returns the credentials for mutual TLS.
   *
   * @param authorities the trusted ones
   * @param certificate the certificate of the client and its chain
   * @param key the private key of the certificate in PKCS #8, of the kind RSA or EC, without a
   *     password
   * @throws IOException if a file cannot be read
   * @throws IllegalArgumentException if a file has other contents, or the key is not that of the
   *     certificate
   */
  public static ChannelCredentials fromFiles(Path authorities, Path certificate, Path key)
      throws IOException {
    return identifiedBy(certificate, key, trusting(authorities)).build();
  }

  private static TlsChannelCredentials.Builder trusting(Path authorities) throws IOException {
    var pem = Pem.read(authorities);
    pem.publicKey();
    return TlsChannelCredentials.newBuilder().trustManager(pem.stream("CERTIFICATE"));
  }

  private static TlsChannelCredentials.Builder identifiedBy(
      Path certificate, Path key, TlsChannelCredentials.Builder tls) throws IOException {
    var chain = Pem.read(certificate);
    var secret = Pem.read(key);
    var publicKey = chain.publicKey();
    var signature =
        switch (publicKey.getAlgorithm()) {
          case "RSA" -> "SHA256withRSA";
          case "EC" -> "SHA256withECDSA";
          default ->
              throw new IllegalArgumentException(
                  "%s: the certificate must be for a key of the kind RSA or EC (got %s)"
                      .formatted(certificate, publicKey.getAlgorithm()));
        };
    if (!isPair(publicKey, secret.privateKey(publicKey.getAlgorithm()), signature)) {
      throw new IllegalArgumentException(key + ": not the key of " + certificate);
    }
    return tls.keyManager(chain.stream("CERTIFICATE"), secret.stream("PRIVATE KEY"));
  }

  /** Returns whether a signature with the private key passes the check with the public key. */
  private static boolean isPair(PublicKey publicKey, PrivateKey privateKey, String algorithm) {
    try {
      var signature = Signature.getInstance(algorithm);
      signature.initSign(privateKey);
      signature.update((byte) 1);
      var signed = signature.sign();
      signature.initVerify(publicKey);
      signature.update((byte) 1);
      return signature.verify(signed);
    } catch (GeneralSecurityException invalid) {
      return false;
    }
  }
}
