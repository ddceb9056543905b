//! Conversion between JSON and the well-known types of protobuf.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::{Map, Value as Json};

/// The integers up to this one are exact as doubles.
const MAX_EXACT: f64 = 9_007_199_254_740_992.0;

/// Returns a `Struct` with the same members. Numbers become doubles, which rounds integers beyond 2^53.
pub fn struct_from_json(members: Map<String, Json>) -> Struct {
    let fields = members
        .into_iter()
        .map(|(name, value)| (name, value_from_json(value)));
    Struct {
        fields: fields.collect(),
    }
}

/// Returns the members of a `Struct` as JSON, with `3` rather than `3.0`.
pub fn json_from_struct(content: &Struct) -> Json {
    let members = content.fields.iter();
    Json::Object(
        members
            .map(|(name, value)| (name.clone(), json_from_value(value)))
            .collect(),
    )
}

fn value_from_json(json: Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(flag) => Kind::BoolValue(flag),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(items) => Kind::ListValue(ListValue {
            values: items.into_iter().map(value_from_json).collect(),
        }),
        Json::Object(members) => Kind::StructValue(struct_from_json(members)),
    };
    Value { kind: Some(kind) }
}

fn json_from_value(value: &Value) -> Json {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        Some(Kind::BoolValue(flag)) => (*flag).into(),
        Some(Kind::NumberValue(number)) if number.fract() == 0.0 && number.abs() <= MAX_EXACT => {
            (*number as i64).into()
        }
        Some(Kind::NumberValue(number)) => (*number).into(),
        Some(Kind::StringValue(text)) => text.as_str().into(),
        Some(Kind::ListValue(list)) => list.values.iter().map(json_from_value).collect(),
        Some(Kind::StructValue(content)) => json_from_struct(content),
    }
}
