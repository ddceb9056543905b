#include <jobgateway/options.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

#include <fstream>
#include <iterator>
#include <stdexcept>

namespace jobgateway {

namespace {

std::string Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(file), {}};
  if (!file) throw std::invalid_argument("cannot read " + path);
  return text;
}

template <typename Value, void (*free)(Value*)>
struct Free {
  void operator()(Value* value) const { free(value); }
};
using Certificate = std::unique_ptr<X509, Free<X509, X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Free<EVP_PKEY, EVP_PKEY_free>>;

std::unique_ptr<BIO, Free<BIO, BIO_free_all>> Source(const std::string& pem) {
  return std::unique_ptr<BIO, Free<BIO, BIO_free_all>>(
      BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
}

// Without it, OpenSSL asks for the passphrase on the terminal.
int NoPassphrase(char*, int, int, void*) { return -1; }

// gRPC would not report a file that it cannot use: all calls would fail.
Certificate ReadCertificate(const std::string& pem, const std::string& path) {
  Certificate read(
      PEM_read_bio_X509(Source(pem).get(), nullptr, NoPassphrase, nullptr));
  if (!read) throw std::invalid_argument(path + ": no certificate in PEM");
  return read;
}

Key ReadKey(const std::string& pem, const std::string& path) {
  Key read(PEM_read_bio_PrivateKey(Source(pem).get(), nullptr, NoPassphrase,
                                   nullptr));
  if (!read) {
    throw std::invalid_argument(path +
                                ": no private key in PEM without passphrase");
  }
  return read;
}

}  // namespace

std::shared_ptr<grpc::ChannelCredentials> TlsFromFiles(
    const std::string& ca_file, const std::string& cert_file,
    const std::string& key_file) {
  if (cert_file.empty() != key_file.empty()) {
    throw std::invalid_argument(
        "certificate and key: both are needed; give both or neither");
  }
  grpc::SslCredentialsOptions options;
  if (!ca_file.empty()) {
    options.pem_root_certs = Read(ca_file);
    ReadCertificate(options.pem_root_certs, ca_file);
  }
  if (!cert_file.empty()) {
    options.pem_cert_chain = Read(cert_file);
    options.pem_private_key = Read(key_file);
    const Certificate certificate =
        ReadCertificate(options.pem_cert_chain, cert_file);
    const Key key = ReadKey(options.pem_private_key, key_file);
    if (X509_check_private_key(certificate.get(), key.get()) != 1) {
      throw std::invalid_argument(key_file + ": not the key of " + cert_file);
    }
  }
  return grpc::SslCredentials(options);
}

}  // namespace jobgateway
