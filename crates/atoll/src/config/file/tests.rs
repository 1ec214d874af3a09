use super::*;

fn read(text: &str) -> Result<File, Vec<String>> {
    Reader::read(Path::new("a.toml"), text, &Schema::new())
}

/// The mistakes in a file, one a line.
fn mistakes(text: &str) -> String {
    read(text).unwrap_err().join("\n")
}

#[test]
fn a_part_goes_over_what_stands_before_it() {
    let file = read(
        r#"
        data_dir = "/srv/atoll"
        log_format = "json"
        history_days = 0x1E

        [server]
        listen = "10.0.0.1:3000"
        log_format = "text"

        [node]
        server = "http://10.0.0.1:3000"
        "#,
    )
    .unwrap();
    let values = |role, key| file.get(role, key).map(|given| given.values.join(","));
    assert_eq!(values(Role::Node, "log_format").unwrap(), "json");
    assert_eq!(values(Role::Server, "log_format").unwrap(), "text");
    assert_eq!(values(Role::Server, "data_dir").unwrap(), "/srv/atoll");
    assert_eq!(values(Role::Server, "history_days").unwrap(), "30");
    assert_eq!(values(Role::Dev, "listen"), None);
    assert_eq!(file.get(Role::Server, "listen").unwrap().line, 7);
}

#[test]
fn lists_are_arrays_and_those_of_pairs_may_be_tables() {
    let as_array = read("[node]\ntag = [\"zone=a\", \"disk=ssd\"]").unwrap();
    let tags = &as_array.get(Role::Node, "tag").unwrap().values;
    assert_eq!(tags, &["zone=a", "disk=ssd"]);
    let as_table = read("[node.tag]\nzone = \"a\"\ndisk = \"ssd\"").unwrap();
    let tags = &as_table.get(Role::Node, "tag").unwrap().values;
    assert_eq!(tags, &["disk=ssd", "zone=a"]);
    assert_eq!(
        mistakes("[node]\ntag = \"zone=a\""),
        "a.toml:2:7: `tag` must be an array of strings or a table of strings, not a string"
    );
    // In a variable the comma would part them.
    assert_eq!(
        mistakes("[node]\ntag = [\"a=b,c\"]"),
        "a.toml:2:7: `tag` cannot have `,` in a value: `a=b,c`"
    );
}

#[test]
fn every_mistake_is_told_with_its_place_and_what_would_be_right() {
    let told = mistakes(
        r#"log_fromat = "json"
listen = "127.0.0.1:1"
[server]
listen = "here"
history_days = "7"
webhook_targets = "al"
history_events = 1
colour = "green"
[node]
  join_token = "0123456789abcdef"
[edge]
"#,
    );
    let told: Vec<&str> = told.lines().collect();
    let begins = [
        "a.toml:1:1: `log_fromat` is no setting before all parts of the file; did you mean \
         `log_format`?; allowed are `",
        "a.toml:2:1: `listen` stands in `[dev]` or `[server]` or `[node]`",
        "a.toml:4:10: `listen`: `here`: invalid socket address",
        "a.toml:5:16: `history_days` must be an integer, not a string",
        "a.toml:6:19: `webhook_targets`: `al` is not allowed",
        "a.toml:7:18: `history_events`: `1`: 1 is not in 1000..",
        "a.toml:8:1: `colour` is no setting of `[server]`; allowed are `advertise`, `",
        "a.toml:10:3: `join_token` is a secret: put it into a file, and name that in \
         `join_token_file`",
        "a.toml:11:2: `edge` is no setting before all parts of the file",
    ];
    assert_eq!(told.len(), begins.len(), "{told:#?}");
    for (line, begin) in told.iter().zip(begins) {
        assert!(
            line.starts_with(begin),
            "{line}\ndoes not begin with\n{begin}"
        );
    }
    assert!(
        told[4].ends_with("allowed are `public`, `any`"),
        "{}",
        told[4]
    );
}

#[test]
fn what_is_no_toml_is_told_with_its_place() {
    let told = mistakes("[server]\nlisten = \n");
    assert!(told.starts_with("a.toml:2:"), "{told}");
    let told = mistakes("server = \"http://a\"\n");
    assert_eq!(
        told,
        "a.toml:1:1: `server` is a part of the file: `[server]`"
    );
    let told = mistakes("log_format = \"json\"\nlog_format = \"text\"\n");
    assert!(told.starts_with("a.toml:2:"), "{told}");
}

#[test]
fn a_file_that_every_user_may_write_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("atoll.toml");
    fs::write(&path, "log_format = \"json\"").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o646)).unwrap();
    let told = File::read(&path, &Schema::new()).unwrap_err().join("\n");
    assert!(told.contains("chmod o-w"), "{told}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    File::read(&path, &Schema::new()).unwrap();
}
