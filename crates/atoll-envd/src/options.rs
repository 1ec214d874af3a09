//! The command line.

use std::net::SocketAddr;
use std::os::fd::RawFd;

use crate::PORT;

/// What the program is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Options {
    /// Print the protocol version.
    Version,
    /// Serve.
    Serve(Serve),
}

/// How to serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Serve {
    /// Where connections come from.
    pub listen: Listen,
    /// Whether the agent is the sandbox's init, and the root file system thus its own to mark.
    pub is_init: bool,
}

/// Where connections come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// A listening TCP socket that was open when the program started.
    Inherited(RawFd),
    /// An address to bind.
    Address(SocketAddr),
}

/// Why a command line is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// An option that does not exist.
    #[error("unknown option `{0}`; known: --listen ADDRESS:PORT, --listen-fd N, --init, --version")]
    Unknown(String),
    /// An option without its value, or with a bad one.
    #[error("option {option} needs {wanted}")]
    Value {
        /// The option.
        option: &'static str,
        /// What it needs.
        wanted: &'static str,
    },
}

impl Options {
    /// Reads the arguments after the program's name.
    ///
    /// `--init` says that the agent is the sandbox's pid 1: it leaves its marks in `/run/e2b`.
    /// Orphans are reaped with or without it.
    ///
    /// # Errors
    /// If an option is unknown or its value does not parse.
    pub fn parse(arguments: &[String]) -> Result<Self, Problem> {
        let mut listen = Listen::Address(SocketAddr::from(([0, 0, 0, 0], PORT)));
        let mut is_init = false;
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_str() {
                "--version" | "-version" => return Ok(Self::Version),
                "--init" => is_init = true,
                "--listen" => {
                    let address =
                        rest.next()
                            .and_then(|text| text.parse().ok())
                            .ok_or(Problem::Value {
                                option: "--listen",
                                wanted: "an address and a port, like 127.0.0.1:49983",
                            })?;
                    listen = Listen::Address(address);
                }
                "--listen-fd" => {
                    let number = rest
                        .next()
                        .and_then(|text| text.parse().ok())
                        .filter(|number| *number >= 0);
                    listen = Listen::Inherited(number.ok_or(Problem::Value {
                        option: "--listen-fd",
                        wanted: "the number of a listening socket",
                    })?);
                }
                other => return Err(Problem::Unknown(other.to_owned())),
            }
        }
        Ok(Self::Serve(Serve { listen, is_init }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_options_and_refuses_others() {
        let parse = |texts: &[&str]| {
            Options::parse(
                &texts
                    .iter()
                    .map(|text| (*text).to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(
            parse(&["--init", "--listen-fd", "3"]),
            Ok(Options::Serve(Serve {
                listen: Listen::Inherited(3),
                is_init: true
            }))
        );
        assert!(matches!(
            parse(&[]),
            Ok(Options::Serve(Serve {
                listen: Listen::Address(address),
                is_init: false
            })) if address.port() == 49983
        ));
        assert!(parse(&["--listen-fd", "-1"]).is_err());
        assert!(parse(&["--listen", "nowhere"]).is_err());
        assert!(parse(&["--port", "1"]).is_err());
        assert_eq!(parse(&["--version"]), Ok(Options::Version));
    }
}
