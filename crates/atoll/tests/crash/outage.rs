//! The server's store fails and comes back, while the server runs: changes are refused with a time
//! to try again, sandboxes serve on, and what was due meanwhile is done afterwards.

use std::fs;
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::rig::{Access, Part, Rig, is_possible};

/// What the folder of the server's data may hold where the disk is to be full: far more than the
/// tests need.
const SMALL_DISK: &str = "size=64m";

/// Holds the database alone, as a backup that goes wrong does, until its input ends.
const HOLD: &str = "import sqlite3, sys\n\
                    held = sqlite3.connect(sys.argv[1], isolation_level=None)\n\
                    held.execute('BEGIN EXCLUSIVE')\n\
                    print('held', flush=True)\n\
                    sys.stdin.read()\n\
                    held.execute('ROLLBACK')\n";

/// Another process that holds the database.
struct Holder(Child);

impl Holder {
    /// None, with the reason told, where there is nothing to hold it with.
    fn start(database: &Path) -> Option<Self> {
        let started = Command::new("python3")
            .args(["-c", HOLD])
            .arg(database)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(error) => {
                eprintln!("skipped: no python3 to hold the database with: {error}");
                return None;
            }
        };
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "held\n");
        Some(Self(child))
    }

    fn release(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // One that was released is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Takes all the room there is.
struct Filler(PathBuf);

impl Filler {
    fn start(folder: &Path) -> Self {
        let path = folder.join("filler");
        let mut file = fs::File::create(&path).unwrap();
        // Down to the last byte: a page must not fit.
        for chunk in [&[0; 4096][..], &[0; 1][..]] {
            let full = loop {
                if let Err(error) = file.write_all(chunk) {
                    break error;
                }
            };
            assert_eq!(full.kind(), ErrorKind::StorageFull, "{full}");
        }
        Self(path)
    }

    fn release(self) {
        fs::remove_file(self.0).unwrap();
    }
}

/// A server with a sandbox that is to be kept and one whose time passes during the outage.
struct Outage {
    rig: Rig,
    kept: Access,
    bystander: Access,
}

impl Outage {
    fn prepare(rig: Rig) -> Self {
        let kept = rig.create("kept");
        let kept = rig.access(&kept);
        let bystander = rig.access(rig.bystander());
        let mut brief = Rig::wish("brief");
        brief["timeout"] = json!(2);
        rig.insist(("POST", "/sandboxes"), Some("brief"), Some(&brief), &[201]);
        Self {
            rig,
            kept,
            bystander,
        }
    }

    /// What holds while the store takes no changes.
    fn check(&self) {
        let path = format!("/sandboxes/{}", self.kept.id);
        let pause = format!("{path}/pause");
        let wish = Rig::wish("during");
        let changes = [
            // What still fits is made, and ended with the others.
            ("POST", "/sandboxes", Some(&wish)),
            ("DELETE", &path, None),
            ("POST", &pause, None),
        ];
        for (method, path, body) in changes {
            self.rig.wait("a change is refused", |rig| {
                rig.refusal((method, path), body)
            });
        }
        let served = self.rig.command(&self.kept, "echo served");
        assert_eq!(served.as_deref(), Some("served"));
        let count = self.rig.command(&self.bystander, "cat /tmp/count");
        self.rig.judge_count(&count.unwrap());
    }

    /// The repairs that the server knows of, oldest first.
    fn repairs(&self) -> Vec<Value> {
        let list = self.rig.ask_operator("/admin/v1/corrections?limit=100");
        let list = list.and_then(|list| list.as_array().cloned());
        list.unwrap_or_default().into_iter().rev().collect()
    }

    /// Checks that repairs which the store could not take are there after a restart.
    fn check_recorded(&mut self, repairs: &[Value]) {
        self.rig.stop(Part::Server);
        self.rig.run(Part::Server);
        let known = self.rig.wait("the server is back", |_| {
            let known = self.repairs();
            (known.len() >= repairs.len()).then_some(known)
        });
        assert_eq!(known[..repairs.len()], *repairs);
    }

    /// What holds once it takes them again, without any restart.
    fn check_recovery(mut self) {
        let rig = &mut self.rig;
        rig.wait("the store and the node agree on what is due", |rig| {
            let names: Vec<String> = rig.list().into_iter().map(|(name, _)| name).collect();
            let has = |wanted: &str| names.iter().any(|name| name == wanted);
            let is_right = has("bystander") && has("kept") && !has("brief");
            (is_right && names.len() == rig.ledger().len()).then_some(())
        });
        let after = rig.create("after");
        assert_eq!(rig.exec_until(&after, "echo served"), "served");
        assert_eq!(rig.exec_until(&self.kept.id, "echo served"), "served");
        for id in rig.ledger() {
            if id != rig.bystander() {
                let path = format!("/sandboxes/{id}");
                rig.insist(("DELETE", &path), None, None, &[204, 404]);
            }
        }
        rig.wait_alone();
        rig.check_bystander();
        rig.check_lives();
        self.rig.finish();
    }
}

/// Another program may hold the database for longer than a write waits for it.
#[test]
fn a_held_store_is_survived() {
    if !is_possible() {
        return;
    }
    let mut outage = Outage::prepare(Rig::start());
    let Some(holder) = Holder::start(&outage.rig.database()) else {
        return;
    };
    outage.check();
    // A repair meanwhile: the node comes back, and its routes are published again.
    let before = outage.repairs();
    outage.rig.kill(Part::Node);
    outage.rig.run(Part::Node);
    let noticed = outage.rig.wait("the repair is noticed", |_| {
        let repairs = outage.repairs();
        (repairs.len() > before.len()).then_some(repairs)
    });
    holder.release();
    outage.check_recorded(&noticed);
    outage.check_recovery();
}

/// The disk may be full for a while.
#[test]
fn a_full_disk_is_survived() {
    if !is_possible() {
        return;
    }
    let outage = Outage::prepare(Rig::start_on_disk(Some(SMALL_DISK)));
    let filler = Filler::start(outage.rig.database().parent().unwrap());
    outage.check();
    filler.release();
    outage.check_recovery();
}
