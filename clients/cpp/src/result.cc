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

}  // namespace

bool IsIntact(const v1::Job& job, const std::string& chunks, bool complete) {
  if (job.content_size() == 0 || job.has_content()) return true;
  const std::string& bytes =
      job.has_content_json() ? job.content_json() : chunks;
  if (bytes.empty() && !complete) return true;
  return job.content_sha256() == Sha256(bytes);
}

Error DamagedResult(const v1::Job& job) {
  return {grpc::StatusCode::DATA_LOSS,
          "the result of job " + std::to_string(job.uid()) +
              " was damaged on its way: its SHA-256 is wrong"};
}

Result::Result(v1::ContentFormat format, bool always_chunks)
    : complete_(always_chunks ? format != v1::CONTENT_FORMAT_NONE
                              : format == v1::CONTENT_FORMAT_UNSPECIFIED ||
                                    format == v1::CONTENT_FORMAT_JSON_CHUNKS) {}

bool Result::Take(const v1::JobEvent& event) {
  if (event.has_content_chunk()) {
    // After a resumption, chunks may start again at 0.
    const std::size_t offset = event.content_chunk().offset();
    if (offset < chunks_.size()) chunks_.resize(offset);
    chunks_ += event.content_chunk().data();
  }
  return !event.job().done() || IsIntact(event.job(), chunks_, complete_);
}

}  // namespace internal

}  // namespace jobgateway
