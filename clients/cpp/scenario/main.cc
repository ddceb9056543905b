// Runs the steps of a scenario file and prints its observations
// (clients/README.md).

#include <google/protobuf/util/json_util.h>
#include <jobgateway/client.h>

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
#include <utility>
#include <vector>

#include "report.h"

namespace scenario {
namespace {

using jobgateway::CallOptions;
using jobgateway::Client;
using jobgateway::Error;
using jobgateway::Retry;
using jobgateway::v1::Job;
using jobgateway::v1::SendJobRequest;
using jobgateway::v1::WatchJobRequest;
using nlohmann::json;
using std::chrono::seconds;

// Makes a unary call and prints its errors and its job. Returns nothing after
// the last error.
template <typename Call>
std::optional<Job> Report(const std::string& step, Call call) {
  Reporter reporter(step);
  CallOptions options;
  options.on_retry = [&reporter](const Retry& retry) {
    reporter.Failed(retry.error);
  };
  try {
    Job job = call(options);
    reporter.Job(job);
    return job;
  } catch (const Error& error) {
    reporter.Failed(error);
    return std::nullopt;
  }
}

SendJobRequest SendRequest(const json& step) {
  SendJobRequest request;
  // The scenario uses the field names of the contract; params become a Struct.
  const auto parsed = google::protobuf::util::JsonStringToMessage(
      step.at("request").dump(), &request);
  if (!parsed.ok()) throw std::runtime_error(parsed.ToString());
  return request;
}

void Wait(Client* client, std::int64_t uid, seconds timeout) {
  jobgateway::v1::WaitJobRequest request;
  request.set_uid(uid);
  request.mutable_timeout()->set_seconds(timeout.count());
  std::optional<Job> job;
  do {
    job = Report("wait", [&](const CallOptions& options) {
      return client->Wait(request, options);
    });
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

// Prints the events of a watch, which `open` returns.
template <typename Open>
void ToEnd(Reporter reporter, Open open) {
  CallOptions options;
  options.on_retry = [&reporter](const Retry& retry) {
    reporter.Resumed(retry);
  };
  try {
    jobgateway::Watch watch = open(options);
    jobgateway::v1::JobEvent event;
    while (watch.Next(&event)) reporter.Event(event, watch.chunks());
  } catch (const Error& error) {
    reporter.Failed(error);
  }
}

void Watch(Client* client, const json& step, Reporter reporter,
           std::int64_t uid) {
  ToEnd(std::move(reporter), [&](const CallOptions& options) {
    return client->Watch(WatchRequest(step, uid), options);
  });
}

void Run(Client* client, const json& step) {
  jobgateway::v1::RunJobRequest request;
  *request.mutable_request() = SendRequest(step);
  if (step.contains("heartbeat_seconds")) {
    request.mutable_heartbeat_interval()->set_seconds(
        step["heartbeat_seconds"]);
  }
  ToEnd(Reporter("run"), [&](const CallOptions& options) {
    return client->Run(request, options);
  });
}

// Watches the jobs at the same time, each on its own thread.
void WatchEach(Client* client, const json& step,
               const std::vector<std::int64_t>& uids) {
  std::vector<std::thread> watches;
  for (const std::int64_t uid : uids) {
    watches.emplace_back([client, &step, uid] {
      Watch(client, step, Reporter("watch_each", uid), uid);
    });
  }
  for (std::thread& watch : watches) watch.join();
}

void WatchAll(Client* client, const json& step,
              const std::vector<std::int64_t>& uids) {
  std::vector<WatchJobRequest> requests;
  for (const std::int64_t uid : uids) {
    requests.push_back(WatchRequest(step, uid));
  }
  for (const json& uid : step.value("uids", json::array())) {
    requests.push_back(WatchRequest(step, std::stoll(uid.get<std::string>())));
  }
  ManyReporter reporter("watch_all");
  CallOptions options;
  options.on_retry = [&reporter](const Retry& retry) {
    reporter.Retried(retry);
  };
  int pause_after = step.value("pause_after", std::numeric_limits<int>::max());
  try {
    jobgateway::WatchAll watch = client->WatchAll(requests, options);
    jobgateway::v1::JobEvent event;
    while (watch.Next(&event)) {
      reporter.Event(event, watch.chunks(event.uid()));
      if (reporter.lines() >= pause_after) {
        pause_after = std::numeric_limits<int>::max();
        std::this_thread::sleep_for(seconds(step.at("pause_seconds")));
      }
    }
    reporter.Ended();
  } catch (const Error& error) {
    reporter.Failed(error);
  }
}

// Runs the steps, one after the other.
void RunSteps(Client* client, const json& scenario) {
  std::vector<std::int64_t> sent;
  for (const json& step : scenario.at("steps")) {
    const std::string name = step.at("do");
    std::int64_t uid = sent.empty() ? 0 : sent.back();
    if (step.contains("uid")) uid = std::stoll(step["uid"].get<std::string>());
    if (name == "send") {
      for (int left = step.value("count", 1); left > 0; --left) {
        const auto job = Report(name, [&](const CallOptions& options) {
          return client->Send(SendRequest(step), options);
        });
        if (job) sent.push_back(job->uid());
      }
    } else if (name == "get") {
      Report(name, [&](const CallOptions& options) {
        return client->Get(uid, options);
      });
    } else if (name == "cancel") {
      Report(name, [&](const CallOptions& options) {
        return client->Cancel(uid, options);
      });
    } else if (name == "wait") {
      Wait(client, uid, seconds(step.at("timeout_seconds")));
    } else if (name == "watch") {
      Watch(client, step, Reporter(name), uid);
    } else if (name == "run") {
      Run(client, step);
    } else if (name == "watch_each") {
      WatchEach(client, step, sent);
    } else if (name == "watch_all") {
      WatchAll(client, step, sent);
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

jobgateway::Options ClientOptions(const char* service_config) {
  jobgateway::Options options;
  // The token at the start, then the one that a new login returns.
  options.login = [next = Environment("JOBGATEWAY_TOKEN")]() mutable {
    return std::exchange(next, Environment("JOBGATEWAY_FRESH_TOKEN"));
  };
  options.service_config = ReadFile(service_config);
  return options;
}

}  // namespace
}  // namespace scenario

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: scenario TARGET SCENARIO-FILE SERVICE-CONFIG-FILE\n";
    return 2;
  }
  try {
    jobgateway::Client client(argv[1], scenario::ClientOptions(argv[3]));
    scenario::RunSteps(&client,
                       nlohmann::json::parse(scenario::ReadFile(argv[2])));
  } catch (const std::exception& error) {
    std::cerr << error.what() << "\n";
    return 1;
  }
}
