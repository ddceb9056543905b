#include "report.h"

#include <openssl/sha.h>

#include <iomanip>
#include <iostream>
#include <mutex>
#include <sstream>
#include <stdexcept>

namespace scenario {

using jobgateway::Action;
using jobgateway::CodeName;
using jobgateway::Error;
using jobgateway::Retry;
using nlohmann::json;

namespace {

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
  unsigned char digest[SHA256_DIGEST_LENGTH];
  SHA256(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(),
         digest);
  std::ostringstream text;
  text << std::hex << std::setfill('0');
  for (const unsigned char byte : digest) text << std::setw(2) << +byte;
  return text.str();
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

json Seen(const Error& error) {
  json seen = {{"code", CodeName(error.code)},
               {"reason", error.reason},
               {"action", Name(error.action())},
               {"fields", json::object()}};
  for (const auto& violation : error.fields) {
    seen["fields"][violation.field] = violation.description;
  }
  if (error.retry_delay) {
    seen["retry_after_seconds"] =
        std::chrono::duration<double>(*error.retry_delay).count();
  }
  return seen;
}

json Seen(const Retry& retry) {
  return {{"code", CodeName(retry.error.code)},
          {"reason", retry.error.reason},
          {"new_connection", retry.new_connection}};
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

void Reporter::Failed(const Error& error) { Print("error", Seen(error)); }

void Reporter::Resumed(const Retry& retry) { Print("resume", Seen(retry)); }

void Reporter::Print(const char* kind, json seen) {
  static std::mutex output;  // many watches print
  if (uid_ != 0) seen["uid"] = std::to_string(uid_);
  const std::lock_guard lock(output);
  std::cout << json{{"do", step_}, {kind, std::move(seen)}} << std::endl;
  ++lines_;
}

void ManyReporter::Event(const jobgateway::v1::JobEvent& event,
                         const std::string& chunks) {
  const std::int64_t uid = event.uid();
  if (event.has_failure()) {
    Print("error", WithUid(Seen(jobgateway::ErrorOf(event.failure())), uid));
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

void ManyReporter::Retried(const Retry& retry) {
  if (retry.uid != 0) {
    Print("again", WithUid(Seen(retry.error), retry.uid));
  } else {
    Print("resume", With(Seen(retry), "jobs", retry.jobs));
  }
}

void ManyReporter::Ended() {
  Print("ended",
        {{"succeeded", succeeded_}, {"failed", failed_}, {"errors", errors_}});
}

}  // namespace scenario
