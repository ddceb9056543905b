#include "report.h"

#include <openssl/evp.h>

#include <cstdio>
#include <iostream>
#include <stdexcept>

#include "google/rpc/code.pb.h"

namespace jobclient {

using nlohmann::json;

namespace {

// Returns the name that gRPC specifies, such as INVALID_ARGUMENT.
std::string Name(grpc::StatusCode code) {
  return google::rpc::Code_Name(static_cast<google::rpc::Code>(code));
}

const char* Name(Action action) {
  switch (action) {
    case Action::kRetry:
      return "retry";
    case Action::kFix:
      return "fix";
    case Action::kLogIn:
      return "login";
    case Action::kLook:
      return "look";
    case Action::kGiveUp:
      return "give_up";
  }
  throw std::logic_error("unknown action");
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

// Returns the number at data.sum.
double Sum(const google::protobuf::Struct& content) {
  const auto data = content.fields().find("data");
  if (data == content.fields().end()) return 0;
  const auto& members = data->second.struct_value().fields();
  const auto sum = members.find("sum");
  return sum == members.end() ? 0 : sum->second.number_value();
}

}  // namespace

void Reporter::Event(const jobgateway::v1::JobEvent& event) {
  if (event.has_job()) {
    Job(event.job());
  } else if (event.has_content_chunk()) {
    const auto& chunk = event.content_chunk();
    const std::size_t held = held_.size();
    TakeChunk(chunk, &held_);
    Print("chunk", {{"offset", chunk.offset()},
                    {"size", chunk.data().size()},
                    {"held", held}});
  } else if (event.has_heartbeat()) {
    const auto& heartbeat = event.heartbeat();
    Print("heartbeat",
          {{"consecutive_failures", heartbeat.consecutive_failures()},
           {"last_failure", heartbeat.last_failure()}});
  }  // otherwise, a payload of a later version
}

void Reporter::Job(const jobgateway::v1::Job& job) const {
  json seen = {{"uid", std::to_string(job.uid())},
               {"status", JobStatus_Name(job.status())},
               {"done", job.done()},
               {"message", job.progress().message()},
               {"percentage", job.progress().percentage()},
               {"error_message", job.error().message()}};
  if (job.done()) seen["result"] = Result(job);
  Print("job", seen);
}

json Reporter::Result(const jobgateway::v1::Job& job) const {
  json seen = {{"as", "none"},
               {"content_size", job.content_size()},
               {"content_sha256", job.content_sha256()}};
  const std::string* bytes = nullptr;
  if (job.has_content()) {
    seen["as"] = "struct";
    seen["sum"] = Sum(job.content());
  } else if (job.has_content_json()) {
    seen["as"] = "json";
    bytes = &job.content_json();
  } else if (job.content_omitted()) {
    seen["as"] = "chunks";
    bytes = &held_;
  }
  if (bytes != nullptr) {
    seen["size"] = bytes->size();
    seen["sha256"] = Sha256(*bytes);
  }
  return seen;
}

void Reporter::Failed(const Failure& failure) const {
  json seen = {{"code", Name(failure.code)},
               {"reason", failure.reason},
               {"action", Name(failure.action())},
               {"fields", failure.fields}};
  if (failure.retry_after) {
    seen["retry_after_seconds"] =
        std::chrono::duration<double>(*failure.retry_after).count();
  }
  Print("error", seen);
}

void Reporter::Resumed(const Resumption& resumption) const {
  Print("resume", {{"code", Name(resumption.failure.code)},
                   {"reason", resumption.failure.reason},
                   {"new_connection", resumption.new_connection}});
}

void Reporter::Print(const char* kind, const json& seen) const {
  std::cout << json{{"do", step_}, {kind, seen}} << std::endl;
}

}  // namespace jobclient
