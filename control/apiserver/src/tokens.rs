//! Who is let in: whoever shows the server's own token, or one of a file's, which is read again when it changes.
//!
//! A line of the file is `token,user,uid`, and perhaps `,"group1,group2"`, as kube-apiserver's static tokens are. Whoever is
//! known may do everything; user and groups are not looked at. Lines that are not so are refused at the start, and
//! reported and left out later.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// The token file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    /// It cannot be read.
    #[error("--token-file {file}: {error}")]
    File {
        /// Which.
        file: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A line is not right.
    #[error("--token-file {file}, line {line}: must be token,user,uid or token,user,uid,\"group1,group2\"")]
    Line {
        /// Which file.
        file: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
}

/// The tokens that are good.
pub struct Tokens {
    own: String,
    file: Option<TokenFile>,
}

struct TokenFile {
    file: PathBuf,
    read: Mutex<Read>,
}

/// What a file held when it looked like this.
struct Read {
    stamp: Option<Stamp>,
    tokens: Vec<String>,
}

/// What differs between a file and what it was before: which it is, how long, when written.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Stamp {
        Stamp {
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Tokens {
    /// The server's own token, and those of a file, which must be good.
    pub fn load(own: String, file: Option<PathBuf>) -> Result<Tokens, TokenFileError> {
        let file = file.map(|file| {
            let unreadable = |error| TokenFileError::File { file: file.clone(), error };
            let stamp = Stamp::of(&std::fs::metadata(&file).map_err(unreadable)?);
            let (tokens, bad) = parse(&std::fs::read_to_string(&file).map_err(unreadable)?);
            match bad.first() {
                Some(line) => Err(TokenFileError::Line { file, line: *line }),
                None => Ok(TokenFile { file, read: Mutex::new(Read { stamp: Some(stamp), tokens }) }),
            }
        });
        Ok(Tokens { own, file: file.transpose()? })
    }

    /// Whether an `Authorization` header carries one of them.
    pub fn admit(&self, authorization: &str) -> bool {
        let sent = authorization.strip_prefix("Bearer ").unwrap_or("");
        equal(sent, &self.own) || self.file.as_ref().is_some_and(|file| file.admits(sent))
    }
}

impl TokenFile {
    fn admits(&self, sent: &str) -> bool {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = std::fs::metadata(&self.file).ok().map(|metadata| Stamp::of(&metadata));
        if read.stamp != stamp {
            *read = Read { stamp, tokens: reread(&self.file) };
        }
        read.tokens.iter().any(|token| equal(sent, token))
    }
}

/// The good tokens of a file that has changed. One that cannot be read has none.
fn reread(file: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| {
        tracing::warn!(file = %file.display(), %error, "the tokens cannot be read; none of them is good");
        String::new()
    });
    let (tokens, bad) = parse(&text);
    for line in bad {
        tracing::warn!(file = %file.display(), line, "this line is no token, and left out");
    }
    tokens
}

/// The tokens, and the numbers of the lines that are not right. Empty lines and comments (`#`) are nothing.
fn parse(text: &str) -> (Vec<String>, Vec<usize>) {
    let (mut tokens, mut bad) = (Vec::new(), Vec::new());
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fields: Vec<&str> = line.splitn(4, ',').map(|field| field.trim().trim_matches('"')).collect();
        match fields.as_slice() {
            [token, user, _, ..] if !token.is_empty() && !user.is_empty() => tokens.push((*token).to_owned()),
            _ => bad.push(index + 1),
        }
    }
    (tokens, bad)
}

/// Whether two tokens are the same. Takes the same time wherever they differ.
fn equal(sent: &str, token: &str) -> bool {
    let differ = sent.bytes().zip(token.bytes()).fold(0, |differ, (a, b)| differ | (a ^ b));
    sent.len() == token.len() && differ == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_tokens_or_reported() {
        let text = "# tokens\n\nabc,ann,1\n  def , bob , 2 , \"a,b\"\nghi\n,ann,1\njkl,,3\n\"mno\",cid,4\n";
        let (tokens, bad) = parse(text);
        assert_eq!(tokens, ["abc", "def", "mno"]);
        assert_eq!(bad, [5, 6, 7]);
    }

    #[test]
    fn a_file_is_read_again_when_it_changes_and_admits_nobody_when_it_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("tokens");
        std::fs::write(&file, "abc,ann,1\n").expect("a file");
        let tokens = Tokens::load("own".into(), Some(file.clone())).expect("good tokens");
        let admits = |token: &str| tokens.admit(&format!("Bearer {token}"));
        assert!(admits("own") && admits("abc") && !admits("def") && !admits("") && !tokens.admit("abc"));
        std::fs::write(&file, "def,ann,1\nbroken\n").expect("a file");
        assert!(admits("def") && !admits("abc") && !admits("broken"));
        std::fs::remove_file(&file).expect("a file");
        assert!(!admits("def") && admits("own"));
        std::fs::write(&file, "abc,ann,1\n").expect("a file");
        assert!(admits("abc"));
    }

    #[test]
    fn a_file_that_is_not_right_is_refused_at_the_start() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = dir.path().join("tokens");
        assert!(matches!(Tokens::load(String::new(), Some(file.clone())), Err(TokenFileError::File { .. })));
        std::fs::write(&file, "abc,ann,1\nabc\n").expect("a file");
        let refused = Tokens::load(String::new(), Some(file)).err().expect("refused");
        assert!(refused.to_string().contains("line 2"), "{refused}");
    }
}
