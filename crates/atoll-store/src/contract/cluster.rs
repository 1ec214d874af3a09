//! A PostgreSQL of the tests' own, for as long as they run.
//!
//! `ATOLL_TEST_PG_URL` names one that is there already (its user must be allowed to create
//! databases). Otherwise one is made in a temporary directory, on a socket of its own, if the
//! programs are installed; where they are not, the tests are skipped and say so.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use sqlx::{Connection as _, PgConnection};

use crate::postgres::DatabaseUrl;

/// Makes the server and waits until the test process is gone: then its end of the pipe is closed,
/// whatever ended it. `$1` is where the programs are, `$2` the directory, `$3` how to sync, `$4`
/// who runs it (empty: whoever we are, but not root). Says `ready` once connections are taken, and
/// on `restart` ends the server as a crash would and starts it again.
const SCRIPT: &str = r#"
set -u
trap '' PIPE
bin="$1"; dir="$2"; sync="$3"; user="$4"
as() {
  if [ -n "$user" ]; then exec setpriv --reuid="$user" --regid="$user" --clear-groups "$@"; fi
  exec "$@"
}
[ -n "$user" ] && chown "$user" "$dir"
if ! (as "$bin/initdb" -D "$dir/data" -U atoll -A trust -E UTF8 --locale=C --no-sync) \
  >"$dir/initdb.log" 2>&1
then
  cat "$dir/initdb.log"; rm -rf "$dir"; exit 1
fi
start() {
  (as "$bin/postgres" -D "$dir/data" -k "$dir" -c listen_addresses= -c fsync="$sync" \
    -c max_connections=200 -c shared_buffers=64MB -c deadlock_timeout=100ms) >>"$dir/log" 2>&1 &
  server=$!
  tries=0
  until "$bin/pg_isready" -q -h "$dir" -U atoll -d postgres; do
    tries=$((tries + 1)); [ "$tries" -gt 600 ] && { cat "$dir/log"; break; }
    sleep 0.05
  done
  echo ready
}
end() {
  kill -QUIT "$(head -n 1 "$dir/data/postmaster.pid")" 2>/dev/null
  wait "$server"
}
start
while read -r order; do
  case "$order" in
    crash) end ;;
    start) start ;;
  esac
done
end
rm -rf "$dir"
"#;

/// Where Debian and others put the programs of each version.
const PLACES: [&str; 3] = ["/usr/lib/postgresql", "/usr/pgsql", "/usr/local/pgsql"];

/// A server that ends with the process, or before.
#[derive(Debug)]
pub(crate) struct Cluster {
    script: Child,
    orders: Option<ChildStdin>,
    said: BufReader<std::process::ChildStdout>,
    url: String,
}

impl Cluster {
    /// Starts one, if it is installed. `is_durable`: its commits are synced to the disk.
    pub(crate) fn start(is_durable: bool) -> Option<Self> {
        let programs = programs()?;
        let directory = tempfile::Builder::new()
            .prefix("atoll-pg-")
            .tempdir()
            .unwrap();
        let directory = directory.keep();
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| {
            use std::os::unix::fs::MetadataExt as _;
            own.uid() == 0
        });
        let mut script = Command::new("sh")
            .args(["-c", SCRIPT, "sh"])
            .arg(&programs)
            .arg(&directory)
            .arg(if is_durable { "on" } else { "off" })
            .arg(if is_root { "postgres" } else { "" })
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut cluster = Self {
            orders: script.stdin.take(),
            said: BufReader::new(script.stdout.take().unwrap()),
            script,
            url: format!(
                "postgres://atoll@localhost/postgres?host={}",
                directory.display()
            ),
        };
        cluster.wait_until_ready();
        Some(cluster)
    }

    fn wait_until_ready(&mut self) {
        let mut line = String::new();
        self.said.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), "ready", "PostgreSQL did not start");
    }

    fn order(&mut self, order: &str) {
        use std::io::Write as _;
        let orders = self.orders.as_mut().unwrap();
        writeln!(orders, "{order}").unwrap();
    }

    /// Ends the server at once, as a crash would.
    pub(crate) fn crash(&mut self) {
        self.order("crash");
    }

    /// Starts it again.
    pub(crate) fn start_again(&mut self) {
        self.order("start");
        self.wait_until_ready();
    }

    /// A new database.
    pub(crate) async fn database(&self) -> DatabaseUrl {
        database(&self.url).await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.orders.take();
        let _ = self.script.wait();
    }
}

/// Where the programs are: the newest that are installed.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // What is found there may be a link to where the others are.
    let in_path = std::env::split_paths(&path).find_map(|place| {
        let found = place.join("initdb").canonicalize().ok()?;
        found.parent().map(Path::to_path_buf)
    });
    let installed = PLACES.iter().flat_map(|place| {
        let versions = std::fs::read_dir(place).into_iter().flatten().flatten();
        versions.map(|version| version.path().join("bin"))
    });
    let mut found: Vec<_> = installed.chain(in_path).collect();
    found.retain(|place| place.join("initdb").exists() && place.join("pg_isready").exists());
    found.into_iter().max()
}

async fn database(url: &str) -> DatabaseUrl {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("atoll_test_{}_{number}", std::process::id());
    let mut connection = PgConnection::connect(url).await.unwrap();
    let text = format!("CREATE DATABASE {name}");
    sqlx::raw_sql(sqlx::AssertSqlSafe(text))
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    DatabaseUrl::parse(url).unwrap().with_database(&name)
}

/// A new database on the server that the tests of this process share; none if there is no server.
pub(crate) async fn shared() -> Option<DatabaseUrl> {
    static URL: OnceLock<Option<String>> = OnceLock::new();
    static OWN: OnceLock<Option<Cluster>> = OnceLock::new();
    let url = URL.get_or_init(|| std::env::var("ATOLL_TEST_PG_URL").ok());
    if let Some(url) = url {
        return Some(database(url).await);
    }
    match OWN.get_or_init(|| Cluster::start(false)) {
        Some(cluster) => Some(cluster.database().await),
        None => {
            skipped();
            None
        }
    }
}

/// Says that a test was skipped.
#[expect(clippy::print_stderr, reason = "whoever runs the tests should see it")]
pub(crate) fn skipped() {
    eprintln!("skipped: neither is PostgreSQL installed nor ATOLL_TEST_PG_URL set");
}
