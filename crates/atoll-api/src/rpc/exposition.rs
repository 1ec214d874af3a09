//! Reading Prometheus' text format, as our own `/metrics` writes it.
//!
//! One sample a line: `name{label="value",…} value`. Comments are left out, and so is a line that
//! is none of both, which our own writer does not make.

/// One figure.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    pub(super) name: String,
    pub(super) labels: Vec<(String, String)>,
    pub(super) value: f64,
}

/// The samples of a text.
pub(super) fn samples(text: &str) -> impl Iterator<Item = Sample> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(sample)
}

fn sample(line: &str) -> Option<Sample> {
    let end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        None => (Vec::new(), rest),
    };
    // A time stamp may follow the value.
    let value = rest.split_whitespace().next()?;
    Some(Sample {
        name: name.to_owned(),
        labels,
        value: value.parse().ok()?,
    })
}

/// The labels up to the closing brace, and what stands behind it.
fn labels(mut rest: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(behind) = rest.strip_prefix('}') {
            return Some((labels, behind));
        }
        let (name, quoted) = rest.split_once("=\"")?;
        let (value, behind) = unquote(quoted)?;
        labels.push((name.to_owned(), value));
        rest = behind;
    }
}

/// The text up to the closing quote, and what stands behind it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((place, char)) = chars.next() {
        match char {
            '"' => return Some((value, &text[place + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                escaped => value.push(escaped),
            },
            plain => value.push(plain),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_with_their_labels() {
        let text = r#"# HELP a_total What.
# TYPE a_total counter
a_total 3

b{le="+Inf",path="a\"b\\c\nd"} 1.5e3 1700000000
c NaN
broken{
"#;
        let samples: Vec<Sample> = samples(text).collect();
        assert_eq!(samples.len(), 3);
        assert_eq!(samples[0].name, "a_total");
        assert!((samples[0].value - 3.0).abs() < f64::EPSILON);
        let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            samples[1].labels,
            [label("le", "+Inf"), label("path", "a\"b\\c\nd")]
        );
        assert!((samples[1].value - 1500.0).abs() < f64::EPSILON);
        assert!(samples[2].value.is_nan());
    }
}
