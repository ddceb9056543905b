//! Conversion from JSON to the well-known types of protobuf.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde_json::{Map, Value as Json};

/// Returns a `Struct` with the same members. Numbers become doubles, which rounds integers beyond 2^53.
pub fn struct_from_json(members: Map<String, Json>) -> Struct {
    let fields = members
        .into_iter()
        .map(|(name, value)| (name, value_from_json(value)));
    Struct {
        fields: fields.collect(),
    }
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
