//! The result of a job.

use std::borrow::Cow;

use sha2::{Digest, Sha256};
use tonic::Code;

use crate::failure::Failure;
use crate::pb::{ContentChunk, ContentFormat, Job, WatchJobRequest, job};
use crate::values::json_from_struct;

/// Returns whether a stream delivers the result of its job.
pub(crate) fn delivers_result(request: &WatchJobRequest) -> bool {
    request.content_format() != ContentFormat::None
}

/// The result of a job, with the bytes that arrive in chunks.
#[derive(Debug, Default)]
pub(crate) struct JobResult {
    pub chunks: Vec<u8>,
}

impl JobResult {
    pub const fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    /// Adds a chunk. It first cuts the result to the chunk's offset, because chunks may start again at 0 after a resume.
    pub fn take(&mut self, chunk: &ContentChunk) {
        let offset = usize::try_from(chunk.offset).unwrap_or_default();
        self.chunks.truncate(offset);
        self.chunks.extend_from_slice(&chunk.data);
    }

    /// Returns the result of a done job as JSON, in whichever form it was delivered.
    pub fn json<'a>(&'a self, job: &'a Job) -> Cow<'a, [u8]> {
        match &job.result {
            Some(job::Result::Content(content)) => {
                json_from_struct(content).to_string().into_bytes().into()
            }
            Some(job::Result::ContentJson(data)) => data.into(),
            None => self.chunks.as_slice().into(),
        }
    }

    /// Returns a failure if the bytes of the result of a done job, in chunks or in the job itself, are not those that the
    /// gateway announced. A `Struct` has no hash. `delivered`: the call delivers every result, if need be in chunks.
    pub fn verify(&self, job: &Job, delivered: bool) -> Result<(), Failure> {
        let data = match &job.result {
            Some(job::Result::Content(_)) => return Ok(()),
            Some(job::Result::ContentJson(data)) => data,
            None => &self.chunks,
        };
        // The gateway does not keep the result of a job without a uid.
        let left = job.content_omitted && data.is_empty() && (!delivered || job.uid == 0);
        if job.content_size == 0 || left {
            return Ok(());
        }
        let (got, size) = (data.len(), job.content_size);
        let problem = match i64::try_from(got) {
            Ok(0) => format!("nothing of its {size} bytes arrived"),
            Ok(got) if got != size => format!("{got} of {size} bytes arrived"),
            _ if hex::encode(Sha256::digest(data)) == job.content_sha256 => return Ok(()),
            _ => format!("its {size} bytes have another SHA-256 than announced"),
        };
        let mut failure = Failure::new(
            Code::DataLoss,
            &format!(
                "the result of job {} was damaged on its way: {problem}; watch the job again",
                job.uid
            ),
        );
        failure.metadata.insert("uid".into(), job.uid.to_string());
        Err(failure)
    }
}

#[cfg(test)]
mod tests;
