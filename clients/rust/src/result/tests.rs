use super::*;
use crate::struct_from_json;

fn done(result: Option<job::Result>, size: i64, data: &[u8]) -> Job {
    Job {
        uid: 7,
        done: true,
        result,
        content_size: size,
        content_sha256: hex::encode(Sha256::digest(data)),
        ..Default::default()
    }
}

fn chunks(data: &[u8]) -> JobResult {
    let mut result = JobResult::default();
    result.take(&ContentChunk {
        data: data.into(),
        ..Default::default()
    });
    result
}

#[test]
fn a_damaged_result_tells_its_damage() {
    let cases = [
        (chunks(b""), "nothing of its 3 bytes arrived"),
        (chunks(b"[1"), "2 of 3 bytes arrived"),
        (chunks(b"[2]"), "another SHA-256"),
    ];
    for (result, problem) in cases {
        let failure = result.verify(&done(None, 3, b"[1]"), false).unwrap_err();
        assert_eq!((failure.code, failure.uid()), (Code::DataLoss, Some(7)));
        assert!(failure.message.contains(problem), "{failure}");
    }
}

#[test]
fn an_omitted_result_is_damaged_if_the_call_delivers_results() {
    let omitted = Job {
        content_omitted: true,
        ..done(None, 3, b"[1]")
    };
    assert!(chunks(b"").verify(&omitted, false).is_ok());
    let failure = chunks(b"").verify(&omitted, true).unwrap_err();
    assert!(failure.message.contains("nothing of its 3 bytes arrived"));
    assert!(chunks(b"[1]").verify(&omitted, true).is_ok());
    assert!(chunks(b"[1").verify(&omitted, true).is_err());
    // The gateway did not keep it.
    let replayed = Job { uid: 0, ..omitted };
    assert!(chunks(b"").verify(&replayed, true).is_ok());
}

#[test]
fn a_result_is_json_in_each_form() {
    let content = struct_from_json([("a".into(), 1.into())].into_iter().collect());
    let json = job::Result::ContentJson(b"[1]".into());
    let cases: [(_, &[u8]); 3] = [
        (Some(job::Result::Content(content)), br#"{"a":1}"#),
        (Some(json), b"[1]"),
        (None, b"[2]"),
    ];
    for (result, expected) in cases {
        let job = done(result, expected.len() as i64, expected);
        assert!(chunks(b"[2]").verify(&job, true).is_ok());
        assert_eq!(chunks(b"[2]").json(&job), expected);
    }
}
