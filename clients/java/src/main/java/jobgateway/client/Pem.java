package jobgateway.client;

import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyFactory;
import java.security.PrivateKey;
import java.security.PublicKey;
import java.security.cert.CertificateException;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/** The blocks of a file in PEM. Such a file may have several kinds of them, and text in between. */
final class Pem {
  private static final Pattern BLOCK =
      Pattern.compile("-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----END \\1-----", Pattern.DOTALL);

  private record Block(String kind, String body, String text) {}

  private final Path file;
  private final List<Block> blocks = new ArrayList<>();

  private Pem(Path file, String text) {
    this.file = file;
    var found = BLOCK.matcher(text);
    while (found.find()) {
      blocks.add(new Block(found.group(1), found.group(2), found.group()));
    }
  }

  static Pem read(Path file) throws IOException {
    return new Pem(file, Files.readString(file, StandardCharsets.ISO_8859_1));
  }

  /** Returns the blocks of a kind. */
  InputStream stream(String kind) {
    var text =
        blocks.stream()
            .filter(block -> block.kind().equals(kind))
            .map(Block::text)
            .collect(Collectors.joining("\n", "", "\n"));
    return new ByteArrayInputStream(text.getBytes(StandardCharsets.ISO_8859_1));
  }

  /**
   * Returns the public key of the first certificate.
   *
   * @throws IllegalArgumentException if there is no certificate
   */
  PublicKey publicKey() {
    if (blocks.stream().noneMatch(block -> block.kind().equals("CERTIFICATE"))) {
      throw new IllegalArgumentException(file + ": has no certificate in PEM");
    }
    try {
      var certificates =
          CertificateFactory.getInstance("X.509").generateCertificates(stream("CERTIFICATE"));
      return certificates.iterator().next().getPublicKey();
    } catch (CertificateException invalid) {
      throw new IllegalArgumentException(file + ": has an invalid certificate", invalid);
    }
  }

  /**
   * Returns the first private key, if it is for this algorithm.
   *
   * @throws IllegalArgumentException if there is none that can be used
   */
  PrivateKey privateKey(String algorithm) {
    for (var block : blocks) {
      var kind = block.kind();
      if (kind.equals("ENCRYPTED PRIVATE KEY") || block.body().contains(",ENCRYPTED")) {
        throw new IllegalArgumentException(
            file + ": the key has a password; remove it with: openssl pkey -in OLD -out NEW");
      }
      if (kind.equals("PRIVATE KEY")) {
        return decode(block, algorithm);
      }
      if (kind.endsWith(" PRIVATE KEY")) {
        throw new IllegalArgumentException(
            "%s: the key is not in PKCS #8 (got %s); convert it with: openssl pkcs8 -topk8 -nocrypt -in OLD -out NEW"
                .formatted(file, kind));
      }
    }
    throw new IllegalArgumentException(file + ": has no private key in PEM");
  }

  private PrivateKey decode(Block block, String algorithm) {
    try {
      var key = new PKCS8EncodedKeySpec(Base64.getMimeDecoder().decode(block.body()));
      return KeyFactory.getInstance(algorithm).generatePrivate(key);
    } catch (GeneralSecurityException | IllegalArgumentException invalid) {
      // The causes may contain parts of the key.
      throw new IllegalArgumentException(
          file + ": the key is damaged, or not of the kind of the certificate: " + algorithm);
    }
  }
}
