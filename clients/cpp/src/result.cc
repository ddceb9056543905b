#include "result.h"

#include <jobgateway/watch.h>
#include <openssl/evp.h>

#include <cstddef>
#include <cstdio>
#include <stdexcept>

#include "google/protobuf/util/json_util.h"

namespace jobgateway {

std::string ResultOf(const v1::Job& job, const std::string& chunks) {
  if (job.has_content_json()) return job.content_json();
  if (job.content_omitted()) return chunks;
  std::string json;
  if (job.has_content()) {
    const auto written =
        google::protobuf::util::MessageToJsonString(job.content(), &json);
    if (!written.ok()) throw std::runtime_error(written.ToString());
  }
  return json;
}

namespace internal {

namespace {

// Returns the hash in lower-case hexadecimal.
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

Error Damage(const v1::Job& job, const std::string& problem) {
  const std::string uid = std::to_string(job.uid());
  Error error(grpc::StatusCode::DATA_LOSS,
              "the result of job " + uid + " was damaged on its way: " +
                  problem + "; read the job again");
  if (job.uid() != 0) error.metadata["uid"] = uid;
  return error;
}

}  // namespace

std::optional<Error> DamageOf(const v1::Job& job, const std::string& chunks,
                              bool complete) {
  if (job.content_size() == 0 || job.has_content()) return std::nullopt;
  const std::string& bytes =
      job.has_content_json() ? job.content_json() : chunks;
  if (bytes.empty()) {
    // The gateway does not keep the result of a job without a uid.
    const bool unkept = job.content_omitted() && job.uid() == 0;
    if (!complete || unkept) return std::nullopt;
    return Damage(job, "nothing of it arrived");
  }
  const std::string size = std::to_string(bytes.size());
  const std::string expected = std::to_string(job.content_size());
  if (size != expected) {
    return Damage(job, size + " of " + expected + " bytes arrived");
  }
  if (job.content_sha256() != Sha256(bytes)) {
    return Damage(job, "its " + size + " bytes do not match its SHA-256");
  }
  return std::nullopt;
}

Result::Result(v1::ContentFormat format)
    : complete_(format != v1::CONTENT_FORMAT_NONE) {}

std::optional<Error> Result::Take(const v1::JobEvent& event) {
  if (event.has_content_chunk()) {
    // After a resumption, chunks may start again at 0.
    const std::size_t offset = event.content_chunk().offset();
    if (offset < chunks_.size()) chunks_.resize(offset);
    chunks_ += event.content_chunk().data();
  }
  if (!event.job().done()) return std::nullopt;
  return DamageOf(event.job(), chunks_, complete_);
}

}  // namespace internal

}  // namespace jobgateway
