#include "result.h"

#include <openssl/evp.h>

#include <cstdio>
#include <stdexcept>

namespace jobclient {

bool Result::Take(const jobgateway::v1::JobEvent& event) {
  if (event.has_content_chunk()) {
    // After a resumption, chunks may start again at 0.
    const std::size_t offset = event.content_chunk().offset();
    if (offset < chunks_.size()) chunks_.resize(offset);
    chunks_ += event.content_chunk().data();
  }
  return !event.job().done() || IsIntact(event.job());
}

bool Result::IsIntact(const jobgateway::v1::Job& job) const {
  // A Struct does not have the upstream's bytes, of which the hash is.
  const bool has_bytes = job.content_size() != 0 && !job.has_content() &&
                         format_ != jobgateway::v1::CONTENT_FORMAT_NONE;
  if (!has_bytes) return true;
  return job.content_sha256() ==
         Sha256(job.has_content_json() ? job.content_json() : chunks_);
}

grpc::Status DamagedResult() {
  return {grpc::StatusCode::DATA_LOSS,
          "the result was damaged on its way: its SHA-256 is wrong"};
}

std::string Sha256(const std::string& bytes) {
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  if (EVP_Digest(bytes.data(), bytes.size(), digest, &size, EVP_sha256(),
                 nullptr) != 1) {
    throw std::runtime_error("SHA-256 failed");
  }
  std::string text;
  for (unsigned int i = 0; i < size; ++i) {
    char hex[3];
    std::snprintf(hex, sizeof hex, "%02x", digest[i]);
    text += hex;
  }
  return text;
}

}  // namespace jobclient
