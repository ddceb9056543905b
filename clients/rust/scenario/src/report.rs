//! Prints observations, one JSON line each.

use std::collections::HashMap;

use jobgateway_client::pb::{
    ContentChunk, Heartbeat, Job, JobEvent, JobStatus, job, job_event::Payload,
};
use jobgateway_client::prost_types::{Struct, value::Kind};
use jobgateway_client::{Action, Code, Failure, Item, Retry};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

/// Prints the observations of one step.
pub struct Reporter {
    step: &'static str,
    /// The job of a `watch_each`.
    uid: Option<i64>,
    /// The number of bytes in chunks that have arrived.
    held: usize,
    lines: usize,
}

impl Reporter {
    pub fn new(step: &'static str, uid: Option<i64>) -> Self {
        Self {
            step,
            uid,
            held: 0,
            lines: 0,
        }
    }

    /// Prints an event. `result` are the bytes in chunks that have arrived.
    pub fn event(&mut self, event: &JobEvent, result: &[u8]) {
        match &event.payload {
            Some(Payload::Job(job)) => {
                let result = job.done.then(|| result_seen(job, result));
                self.print("job", job_seen(job, result));
            }
            Some(Payload::ContentChunk(chunk)) => {
                self.print_about("chunk", chunk_seen(chunk, self.held));
                self.held = result.len();
            }
            Some(Payload::Heartbeat(heartbeat)) => {
                self.print_about("heartbeat", heartbeat_seen(heartbeat));
            }
            _ => {} // a payload of a later version
        }
    }

    /// Prints the job that a unary call returned.
    pub fn job(&mut self, job: &Job) {
        let result = job.done.then(|| result_seen(job, &[]));
        self.print("job", job_seen(job, result));
    }

    pub fn retry(&mut self, retry: &Retry) {
        self.print_about("resume", retry_seen(retry));
    }

    pub fn failure(&mut self, failure: &Failure) {
        self.print_about("error", failure_seen(failure));
    }

    /// Prints a line that names the job of a `watch_each`.
    fn print_about(&mut self, kind: &str, mut seen: Json) {
        if let Some(uid) = self.uid {
            seen["uid"] = uid.to_string().into();
        }
        self.print(kind, seen);
    }

    fn print(&mut self, kind: &str, seen: impl Into<Json>) {
        println!("{}", json!({"do": self.step, kind: seen.into()}));
        self.lines += 1;
    }
}

/// Prints the observations of a `watch_all`.
pub struct ManyReporter {
    reporter: Reporter,
    /// The bytes in chunks that have arrived, by job.
    arrived: HashMap<i64, usize>,
    succeeded: u32,
    failed: u32,
    errors: u32,
}

impl Default for ManyReporter {
    fn default() -> Self {
        Self {
            reporter: Reporter::new("watch_all", None),
            arrived: HashMap::new(),
            succeeded: 0,
            failed: 0,
            errors: 0,
        }
    }
}

impl ManyReporter {
    /// Returns the number of lines so far.
    pub fn lines(&self) -> usize {
        self.reporter.lines
    }

    /// Prints an item. `result` are the bytes in chunks that have arrived of its job.
    pub fn item(&mut self, item: &Item, result: &[u8]) {
        match item {
            Item::Event(event) => self.event(event, result),
            Item::Failed { uid, failure } => {
                self.errors += 1;
                self.print("error", *uid, failure_seen(failure));
            }
            _ => {} // of a later version
        }
    }

    fn event(&mut self, event: &JobEvent, result: &[u8]) {
        match &event.payload {
            Some(Payload::Job(job)) => {
                match (job.done, job.status()) {
                    (true, JobStatus::Success) => self.succeeded += 1,
                    (done, _) => self.failed += u32::from(done),
                }
                let result = job.done.then(|| result_seen(job, result));
                self.print("job", event.uid, job_seen(job, result));
            }
            Some(Payload::ContentChunk(chunk)) => {
                let held = self.arrived.insert(event.uid, result.len());
                let seen = chunk_seen(chunk, held.unwrap_or_default());
                self.print("chunk", event.uid, seen);
            }
            Some(Payload::Heartbeat(heartbeat)) => {
                self.print("heartbeat", event.uid, heartbeat_seen(heartbeat));
            }
            Some(Payload::Synced(_)) => self.reporter.print("synced", true),
            _ => {} // a payload of a later version
        }
    }

    pub fn retry(&mut self, retry: &Retry) {
        let failure = &retry.failure;
        if let Some(uid) = retry.uid {
            let seen = json!({"code": name(failure.code), "reason": failure.reason});
            self.print("again", uid, seen);
            return;
        }
        let mut seen = retry_seen(retry);
        seen["jobs"] = retry.jobs.into();
        self.reporter.print("resume", seen);
    }

    pub fn failure(&mut self, failure: &Failure) {
        self.reporter.failure(failure);
    }

    pub fn end(&mut self) {
        let (succeeded, failed, errors) = (self.succeeded, self.failed, self.errors);
        let seen = json!({"succeeded": succeeded, "failed": failed, "errors": errors});
        self.reporter.print("ended", seen);
    }

    /// Prints a line about a job, or about the stream if the uid is 0.
    fn print(&mut self, kind: &str, uid: i64, mut seen: Json) {
        if uid != 0 {
            seen["uid"] = uid.to_string().into();
        }
        self.reporter.print(kind, seen);
    }
}

fn job_seen(job: &Job, result: Option<Json>) -> Json {
    let progress = job.progress.as_ref();
    json!({
        "uid": job.uid.to_string(),
        "status": job.status().as_str_name(),
        "done": job.done,
        "message": progress.map(|progress| &progress.message),
        "percentage": progress.and_then(|progress| progress.percentage),
        "error_message": job.error.as_ref().map(|error| &error.message),
        "result": result,
    })
}

fn result_seen(job: &Job, held: &[u8]) -> Json {
    let mut seen = match &job.result {
        Some(job::Result::Content(content)) => json!({"as": "struct", "sum": sum(content)}),
        Some(job::Result::ContentJson(bytes)) => bytes_seen("json", bytes),
        None if job.content_omitted => bytes_seen("chunks", held),
        None => json!({"as": "none"}),
    };
    seen["content_size"] = job.content_size.into();
    seen["content_sha256"] = job.content_sha256.as_str().into();
    seen
}

fn chunk_seen(chunk: &ContentChunk, held: usize) -> Json {
    json!({"offset": chunk.offset, "size": chunk.data.len(), "held": held})
}

fn heartbeat_seen(heartbeat: &Heartbeat) -> Json {
    json!({
        "consecutive_failures": heartbeat.consecutive_failures,
        "last_failure": heartbeat.last_failure,
    })
}

fn retry_seen(retry: &Retry) -> Json {
    json!({
        "code": name(retry.failure.code),
        "reason": retry.failure.reason,
        "new_connection": retry.new_connection,
    })
}

fn failure_seen(failure: &Failure) -> Json {
    json!({
        "code": name(failure.code),
        "reason": failure.reason,
        "action": action(failure),
        "fields": failure.fields.iter().cloned().collect::<HashMap<_, _>>(),
        "retry_after_seconds": failure.retry_after.map(|wait| wait.as_secs_f64()),
    })
}

fn action(failure: &Failure) -> &'static str {
    match failure.action() {
        Action::Retry => "retry",
        Action::Fix => "fix",
        Action::LogIn => "login",
        Action::Look => "look",
        Action::GiveUp => "give_up",
        _ => "unknown",
    }
}

fn bytes_seen(kind: &str, bytes: &[u8]) -> Json {
    json!({"as": kind, "size": bytes.len(), "sha256": hex::encode(Sha256::digest(bytes))})
}

/// Returns the number at `data.sum`.
fn sum(content: &Struct) -> Option<f64> {
    let Kind::StructValue(data) = content.fields.get("data")?.kind.as_ref()? else {
        return None;
    };
    match data.fields.get("sum")?.kind {
        Some(Kind::NumberValue(sum)) => Some(sum),
        _ => None,
    }
}

/// Returns the name that gRPC specifies, such as `INVALID_ARGUMENT`. tonic's name is `InvalidArgument`.
fn name(code: Code) -> String {
    let mut name = String::new();
    for letter in format!("{code:?}").chars() {
        if letter.is_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(letter.to_ascii_uppercase());
    }
    name
}
