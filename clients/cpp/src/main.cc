// Runs the steps of a scenario file and prints its observations
// (clients/README.md).

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "connection.h"
#include "failure.h"
#include "google/protobuf/util/json_util.h"
#include "report.h"
#include "rules.h"
#include "watch.h"
#include "watch_all.h"

namespace jobclient {
namespace {

using jobgateway::v1::Job;
using jobgateway::v1::JobService;
using jobgateway::v1::WatchJobRequest;
using nlohmann::json;
using std::chrono::seconds;

constexpr int kMaxAttempts = 5;  // of a unary call, including the first
constexpr seconds kDeadline{30};

template <typename Request>
using Rpc = grpc::Status (JobService::Stub::*)(grpc::ClientContext*,
                                               const Request&, Job*);

// Makes a unary call and retries it if the error allows that. `repeatable`: a
// second call has no further effect. Returns nothing after an error, which has
// been printed.
template <typename Request>
std::optional<Job> Call(Connection* connection, Reporter reporter,
                        Rpc<Request> rpc, const Request& request,
                        seconds deadline = kDeadline, bool repeatable = true) {
  bool logged_in = false;
  Backoff backoff;
  int attempt = 1;
  while (true) {
    grpc::ClientContext context;  // for one call
    context.set_deadline(std::chrono::system_clock::now() + deadline);
    connection->Authorize(&context);
    if constexpr (!std::is_same_v<Request, jobgateway::v1::SendJobRequest>) {
      AddJobUid(request.uid(), &context);
    }
    Job job;
    const grpc::Status status =
        (connection->stub().*rpc)(&context, request, &job);
    if (status.ok()) {
      reporter.Job(job);
      return job;
    }
    const Failure failure = FailureOf(status);
    reporter.Failed(failure);
    const Action action = failure.action();
    if (action == Action::kLogIn && !logged_in) {
      connection->LogIn();
      logged_in = true;
    } else if (action == Action::kRetry && repeatable &&
               attempt < kMaxAttempts) {
      std::this_thread::sleep_for(backoff.Next(failure));
      ++attempt;
    } else {
      return std::nullopt;
    }
  }
}

std::optional<Job> Send(Connection* connection, const json& step) {
  jobgateway::v1::SendJobRequest request;
  // The scenario uses the field names of the contract; params become a Struct.
  const auto parsed = google::protobuf::util::JsonStringToMessage(
      step.at("request").dump(), &request);
  if (!parsed.ok()) throw std::runtime_error(parsed.ToString());
  return Call(connection, Reporter("send"), &JobService::Stub::SendJob, request,
              kDeadline, !request.request_id().empty());
}

void Get(Connection* connection, std::int64_t uid) {
  jobgateway::v1::GetJobRequest request;
  request.set_uid(uid);
  Call(connection, Reporter("get"), &JobService::Stub::GetJob, request);
}

void Cancel(Connection* connection, std::int64_t uid) {
  jobgateway::v1::CancelJobRequest request;
  request.set_uid(uid);
  Call(connection, Reporter("cancel"), &JobService::Stub::CancelJob, request);
}

void Wait(Connection* connection, std::int64_t uid, seconds timeout) {
  jobgateway::v1::WaitJobRequest request;
  request.set_uid(uid);
  request.mutable_timeout()->set_seconds(timeout.count());
  std::optional<Job> job;
  do {
    job = Call(connection, Reporter("wait"), &JobService::Stub::WaitJob,
               request, timeout + kDeadline);
  } while (job && !job->done());
}

WatchJobRequest WatchRequest(const json& step, std::int64_t uid) {
  WatchJobRequest request;
  request.set_uid(uid);
  if (step.contains("heartbeat_seconds")) {
    request.mutable_heartbeat_interval()->set_seconds(
        step["heartbeat_seconds"]);
  }
  if (step.value("chunks", false)) {
    request.set_content_format(jobgateway::v1::CONTENT_FORMAT_JSON_CHUNKS);
  }
  return request;
}

void WatchToEnd(Connection* connection, const json& step, std::int64_t uid) {
  Reporter reporter("watch");
  Watch watch(connection, WatchRequest(step, uid),
              [&reporter](const Resumption& resumption) {
                reporter.Resumed(resumption);
              });
  jobgateway::v1::JobEvent event;
  while (watch.Next(&event)) reporter.Event(event, watch.chunks());
  if (!watch.status().ok()) reporter.Failed(FailureOf(watch.status()));
}

void WatchAllToEnd(Connection* connection, const json& step,
                   const std::vector<std::int64_t>& uids) {
  std::vector<WatchJobRequest> requests;
  for (const std::int64_t uid : uids) {
    requests.push_back(WatchRequest(step, uid));
  }
  for (const json& uid : step.value("uids", json::array())) {
    requests.push_back(WatchRequest(step, std::stoll(uid.get<std::string>())));
  }
  ManyReporter reporter("watch_all");
  WatchAll watch(
      connection, requests,
      [&reporter, &watch](const Resumption& resumption) {
        reporter.Resumed(resumption, watch.pending());
      },
      [&reporter](std::int64_t uid, const Failure& failure) {
        reporter.Again(uid, failure);
      });
  int pause_after = step.value("pause_after", std::numeric_limits<int>::max());
  jobgateway::v1::JobEvent event;
  while (watch.Next(&event)) {
    reporter.Event(event, watch.chunks(event.uid()));
    if (reporter.lines() >= pause_after) {
      pause_after = std::numeric_limits<int>::max();
      std::this_thread::sleep_for(seconds(step.at("pause_seconds")));
    }
  }
  if (watch.status().ok()) {
    reporter.Ended();
  } else {
    reporter.Failed(FailureOf(watch.status()));
  }
}

// Runs the steps, one after the other.
void Run(Connection* connection, const json& scenario) {
  std::vector<std::int64_t> sent;
  for (const json& step : scenario.at("steps")) {
    const std::string name = step.at("do");
    std::int64_t uid = sent.empty() ? 0 : sent.back();
    if (step.contains("uid")) uid = std::stoll(step["uid"].get<std::string>());
    if (name == "send") {
      for (int left = step.value("count", 1); left > 0; --left) {
        const std::optional<Job> job = Send(connection, step);
        if (job) sent.push_back(job->uid());
      }
    } else if (name == "get") {
      Get(connection, uid);
    } else if (name == "cancel") {
      Cancel(connection, uid);
    } else if (name == "wait") {
      Wait(connection, uid, seconds(step.at("timeout_seconds")));
    } else if (name == "watch") {
      WatchToEnd(connection, step, uid);
    } else if (name == "watch_all") {
      WatchAllToEnd(connection, step, sent);
    } else {
      throw std::runtime_error("unknown step " + name);
    }
  }
}

std::string ReadFile(const char* path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error(std::string("cannot read ") + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

}  // namespace
}  // namespace jobclient

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: jobclient TARGET SCENARIO-FILE SERVICE-CONFIG-FILE\n";
    return 2;
  }
  try {
    jobclient::Connection connection(
        argv[1], jobclient::ReadFile(argv[3]),
        jobclient::Environment("JOBGATEWAY_TOKEN"),
        [] { return jobclient::Environment("JOBGATEWAY_FRESH_TOKEN"); });
    jobclient::Run(&connection,
                   nlohmann::json::parse(jobclient::ReadFile(argv[2])));
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
