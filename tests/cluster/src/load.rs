//! What the clients do while things break, and what they were told.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::client::{Access, Client, Outcome};

/// Of the sandboxes a user makes, one in so many is paused and resumed, and one is left running.
const PAUSED_EACH: u64 = 3;
const LEFT_EACH: u64 = 8;
/// Sandboxes that one user leaves running at most.
const LEFT_MAX: usize = 4;
const PAUSE_BETWEEN: Duration = Duration::from_millis(100);

/// What became of a sandbox, as far as its user knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It was answered, and nobody ended it.
    Lives,
    /// Its end was answered.
    Deleted,
    /// It was answered, and is not there any more although nobody ended it.
    Lost,
    /// Its create was given up: it may be there or not.
    Unknown,
    /// Its delete was given up: it may be there or not.
    Ending,
}

/// One sandbox.
#[derive(Debug, Clone)]
pub(crate) struct Story {
    pub(crate) name: String,
    pub(crate) access: Option<Access>,
    pub(crate) fate: Fate,
    /// What was not as it must be.
    pub(crate) complaint: Option<String>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Stories(Arc<Mutex<Vec<Story>>>);

impl Stories {
    fn tell(&self, story: Story) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(story);
    }

    pub(crate) fn all(&self) -> Vec<Story> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Users that work until they are told to stop.
#[derive(Debug)]
pub(crate) struct Load {
    users: JoinSet<()>,
    stop: CancellationToken,
    stories: Stories,
}

impl Load {
    /// Within a `LocalSet`.
    pub(crate) fn start(client: &Client, users: usize) -> Self {
        let mut load = Self {
            users: JoinSet::new(),
            stop: CancellationToken::new(),
            stories: Stories::default(),
        };
        for number in 0..users {
            let user = User {
                client: client.of_user(number),
                number,
                stories: load.stories.clone(),
                left: 0,
            };
            load.users.spawn_local(user.work(load.stop.clone()));
        }
        load
    }

    /// Lets everybody end what they are at.
    pub(crate) async fn stop(mut self) -> Vec<Story> {
        self.stop.cancel();
        while self.users.join_next().await.is_some() {}
        self.stories.all()
    }
}

struct User {
    client: Client,
    number: usize,
    stories: Stories,
    left: usize,
}

impl User {
    async fn work(mut self, stop: CancellationToken) {
        for turn in 0.. {
            if stop.is_cancelled() {
                return;
            }
            let name = format!("user-{}-{turn}", self.number);
            let story = self.live(name, turn).await;
            self.stories.tell(story);
            sleep(PAUSE_BETWEEN).await;
        }
    }

    /// The life of one sandbox.
    async fn live(&mut self, name: String, turn: u64) -> Story {
        let mut story = Story {
            name: name.clone(),
            access: None,
            fate: Fate::Unknown,
            complaint: None,
        };
        let access = match self.client.create(&name).await {
            Outcome::Done(access) => access,
            Outcome::Gone => {
                story.complaint = Some("a create was answered with 404".to_owned());
                return story;
            }
            Outcome::Failed(_) => return story,
        };
        story.access = Some(access.clone());
        story.fate = Fate::Lives;
        let used = self.make_use(&access, &name, turn).await;
        match used {
            Used::Well => {}
            Used::Badly(complaint) => story.complaint = Some(complaint),
            Used::Lost => {
                story.fate = Fate::Lost;
                return story;
            }
        }
        if turn.is_multiple_of(LEFT_EACH) && self.left < LEFT_MAX {
            self.left += 1;
            return story;
        }
        story.fate = match self.client.delete(&access.id).await {
            // 404: it is gone, by an attempt whose answer was lost or with its node.
            Outcome::Done(()) | Outcome::Gone => Fate::Deleted,
            Outcome::Failed(_) => Fate::Ending,
        };
        story
    }

    async fn make_use(&self, access: &Access, name: &str, turn: u64) -> Used {
        let write = format!("echo {name} > /tmp/name && cat /tmp/name");
        let used = said(self.client.command(access, &write).await, name);
        if used != Used::Well || !turn.is_multiple_of(PAUSED_EACH) {
            return used;
        }
        for outcome in [
            self.client.pause(&access.id).await,
            self.client.resume(&access.id).await,
        ] {
            match outcome {
                Outcome::Done(()) => {}
                Outcome::Gone => return Used::Lost,
                // What was given up is counted by the journal.
                Outcome::Failed(_) => return Used::Well,
            }
        }
        said(self.client.command(access, "cat /tmp/name").await, name)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Used {
    Well,
    Badly(String),
    Lost,
}

fn said(outcome: Outcome<String>, wanted: &str) -> Used {
    match outcome {
        Outcome::Done(text) if text == wanted => Used::Well,
        Outcome::Done(text) => Used::Badly(format!("it says {text:?} in the place of {wanted:?}")),
        Outcome::Gone => Used::Lost,
        Outcome::Failed(_) => Used::Well,
    }
}
