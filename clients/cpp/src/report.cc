#include "report.h"

#include <iostream>
#include <stdexcept>

#include "google/rpc/code.pb.h"
#include "result.h"

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

// Returns the number at data.sum.
double Sum(const google::protobuf::Struct& content) {
  const auto data = content.fields().find("data");
  if (data == content.fields().end()) return 0;
  const auto& members = data->second.struct_value().fields();
  const auto sum = members.find("sum");
  return sum == members.end() ? 0 : sum->second.number_value();
}

// Returns how the result of a done job was delivered.
json Delivered(const jobgateway::v1::Job& job, const std::string& chunks) {
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
    bytes = &chunks;
  }
  if (bytes != nullptr) {
    seen["size"] = bytes->size();
    seen["sha256"] = Sha256(*bytes);
  }
  return seen;
}

json Seen(const jobgateway::v1::ContentChunk& chunk, std::size_t held) {
  return {{"offset", chunk.offset()},
          {"size", chunk.data().size()},
          {"held", held}};
}

json Seen(const jobgateway::v1::Heartbeat& heartbeat) {
  return {{"consecutive_failures", heartbeat.consecutive_failures()},
          {"last_failure", heartbeat.last_failure()}};
}

json Seen(const Failure& failure) {
  json seen = {{"code", Name(failure.code)},
               {"reason", failure.reason},
               {"action", Name(failure.action())},
               {"fields", failure.fields}};
  if (failure.retry_after) {
    seen["retry_after_seconds"] =
        std::chrono::duration<double>(*failure.retry_after).count();
  }
  return seen;
}

json Seen(const Resumption& resumption) {
  const Failure& failure = resumption.failure;
  return {{"code", Name(failure.code)},
          {"reason", failure.silent ? "SILENT" : failure.reason},
          {"new_connection", resumption.new_connection}};
}

json With(json seen, const char* key, json value) {
  seen[key] = std::move(value);
  return seen;
}

json WithUid(json seen, std::int64_t uid) {
  return With(std::move(seen), "uid", std::to_string(uid));
}

}  // namespace

void Reporter::Event(const jobgateway::v1::JobEvent& event,
                     const std::string& chunks) {
  if (event.has_job()) {
    Job(event.job(), chunks);
  } else if (event.has_content_chunk()) {
    Print("chunk", Seen(event.content_chunk(), held_));
    held_ = chunks.size();
  } else if (event.has_heartbeat()) {
    Print("heartbeat", Seen(event.heartbeat()));
  }  // otherwise, a payload of a later version
}

void Reporter::Job(const jobgateway::v1::Job& job, const std::string& chunks) {
  json seen = {{"uid", std::to_string(job.uid())},
               {"status", JobStatus_Name(job.status())},
               {"done", job.done()},
               {"message", job.progress().message()},
               {"percentage", job.progress().percentage()},
               {"error_message", job.error().message()}};
  if (job.done()) seen["result"] = Delivered(job, chunks);
  Print("job", seen);
}

void Reporter::Failed(const Failure& failure) { Print("error", Seen(failure)); }

void Reporter::Resumed(const Resumption& resumption) {
  Print("resume", Seen(resumption));
}

void Reporter::Print(const char* kind, const json& seen) {
  std::cout << json{{"do", step_}, {kind, seen}} << std::endl;
  ++lines_;
}

void ManyReporter::Event(const jobgateway::v1::JobEvent& event,
                         const std::string& chunks) {
  const std::int64_t uid = event.uid();
  if (event.has_failure()) {
    Print("error", WithUid(Seen(FailureOf(event.failure())), uid));
    ++errors_;
  } else if (event.has_synced()) {
    Print("synced", true);
  } else if (event.has_content_chunk()) {
    Print("chunk", WithUid(Seen(event.content_chunk(), held_[uid]), uid));
    held_[uid] = chunks.size();
  } else if (event.has_heartbeat() && uid != 0) {
    Print("heartbeat", WithUid(Seen(event.heartbeat()), uid));
  } else {
    Reporter::Event(event, chunks);
  }
  if (!event.job().done()) return;
  ++(event.job().status() == jobgateway::v1::JOB_STATUS_SUCCESS ? succeeded_
                                                                : failed_);
}

void ManyReporter::Resumed(const Resumption& resumption, std::size_t jobs) {
  Print("resume", With(Seen(resumption), "jobs", jobs));
}

void ManyReporter::Again(std::int64_t uid, const Failure& failure) {
  Print("again", WithUid(Seen(failure), uid));
}

void ManyReporter::Ended() {
  Print("ended",
        {{"succeeded", succeeded_}, {"failed", failed_}, {"errors", errors_}});
}

}  // namespace jobclient
