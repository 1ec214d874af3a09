//! A statement with its values, bound to no database yet.
//!
//! Texts mean the same to every dialect wherever that is possible, and the values that we write
//! are texts and numbers only. So one function carries a write out in each of them, and a statement
//! that met a broken connection can be tried again on another.

use std::borrow::Cow;

/// One value, or a column of them for statements about many rows.
#[derive(Debug)]
pub(crate) enum Value<'q> {
    Text(Option<Cow<'q, str>>),
    Number(Option<i64>),
    Texts(Vec<Option<Cow<'q, str>>>),
    Numbers(Vec<Option<i64>>),
}

/// A statement with its values.
#[derive(Debug)]
pub(crate) struct Statement<'q> {
    pub(crate) text: Cow<'static, str>,
    pub(crate) values: Vec<Value<'q>>,
}

/// A statement without its values. The text is put together from fixed texts: values are only ever
/// bound.
pub(crate) fn query<'q>(text: impl Into<Cow<'static, str>>) -> Statement<'q> {
    Statement {
        text: text.into(),
        values: Vec::new(),
    }
}

impl<'q> Statement<'q> {
    /// Binds the next placeholder.
    pub(crate) fn bind(mut self, value: impl Into<Value<'q>>) -> Self {
        self.values.push(value.into());
        self
    }
}

impl Value<'_> {
    /// The value by itself.
    fn into_owned(self) -> Value<'static> {
        let owned = |text: Option<Cow<'_, str>>| text.map(|text| Cow::Owned(text.into_owned()));
        match self {
            Value::Text(text) => Value::Text(owned(text)),
            Value::Number(number) => Value::Number(number),
            Value::Texts(texts) => Value::Texts(texts.into_iter().map(owned).collect()),
            Value::Numbers(numbers) => Value::Numbers(numbers),
        }
    }
}

impl Statement<'_> {
    /// The statement by itself.
    pub(crate) fn into_owned(self) -> Statement<'static> {
        Statement {
            text: self.text,
            values: self.values.into_iter().map(Value::into_owned).collect(),
        }
    }
}

macro_rules! from {
    ($lifetime:lifetime, $type:ty, $value:ident => $made:expr) => {
        impl<$lifetime> From<$type> for Value<$lifetime> {
            fn from($value: $type) -> Self {
                $made
            }
        }
    };
}

from!('q, &'q str, text => Self::Text(Some(Cow::Borrowed(text))));
from!('q, &'q String, text => Self::Text(Some(Cow::Borrowed(text))));
from!('q, String, text => Self::Text(Some(Cow::Owned(text))));
from!('q, Option<&'q str>, text => Self::Text(text.map(Cow::Borrowed)));
from!('q, Option<String>, text => Self::Text(text.map(Cow::Owned)));
from!('q, i64, number => Self::Number(Some(number)));
from!('q, Option<i64>, number => Self::Number(number));
