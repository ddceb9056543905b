//! Prints observations, one JSON line each.

use jobclient::failure::Failure;
use jobclient::pb::{Job, JobEvent, job, job_event::Payload};
use jobclient::watch::{ChunkedResult, Resumption};
use prost_types::{Struct, value::Kind};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};
use tonic::Code;

/// Prints the observations of one step.
pub struct Reporter {
    step: &'static str,
    held: ChunkedResult,
}

impl Reporter {
    pub fn new(step: &'static str) -> Self {
        Self {
            step,
            held: ChunkedResult::default(),
        }
    }

    pub fn event(&mut self, event: JobEvent) {
        match event.payload {
            Some(Payload::Job(job)) => self.job(&job),
            Some(Payload::ContentChunk(chunk)) => {
                let held = self.held.data.len();
                self.held.take(&chunk);
                let seen = json!({"offset": chunk.offset, "size": chunk.data.len(), "held": held});
                println!("{}", json!({"do": self.step, "chunk": seen}));
            }
            Some(Payload::Heartbeat(heartbeat)) => {
                let seen = json!({
                    "consecutive_failures": heartbeat.consecutive_failures,
                    "last_failure": heartbeat.last_failure,
                });
                println!("{}", json!({"do": self.step, "heartbeat": seen}));
            }
            None => {} // a payload of a later version
        }
    }

    pub fn job(&self, job: &Job) {
        let progress = job.progress.as_ref();
        let seen = json!({
            "uid": job.uid.to_string(),
            "status": job.status().as_str_name(),
            "done": job.done,
            "message": progress.map(|progress| &progress.message),
            "percentage": progress.and_then(|progress| progress.percentage),
            "error_message": job.error.as_ref().map(|error| &error.message),
            "result": job.done.then(|| self.result(job)),
        });
        println!("{}", json!({"do": self.step, "job": seen}));
    }

    fn result(&self, job: &Job) -> Json {
        let mut seen = match &job.result {
            Some(job::Result::Content(content)) => json!({"as": "struct", "sum": sum(content)}),
            Some(job::Result::ContentJson(bytes)) => bytes_seen("json", bytes),
            None if job.content_omitted => bytes_seen("chunks", &self.held.data),
            None => json!({"as": "none"}),
        };
        seen["content_size"] = job.content_size.into();
        seen["content_sha256"] = job.content_sha256.as_str().into();
        seen
    }

    pub fn failure(&self, failure: &Failure) {
        let seen = json!({
            "code": name(failure.code),
            "reason": failure.reason,
            "action": failure.action(),
            "fields": failure.fields,
            "retry_after_seconds": failure.retry_after.map(|wait| wait.as_secs_f64()),
        });
        println!("{}", json!({"do": self.step, "error": seen}));
    }
}

pub fn resumption(resumption: &Resumption) {
    let seen = json!({
        "code": name(resumption.failure.code),
        "reason": resumption.failure.reason,
        "new_connection": resumption.new_connection,
    });
    println!("{}", json!({"do": "watch", "resume": seen}));
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
