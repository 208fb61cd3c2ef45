//! JSON Pointers (RFC 6901).

/// The keys from the outside to the inside; an empty list is the whole value. The key of an array's element is its index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pointer(pub(super) Vec<String>);

impl Pointer {
    /// Parses a pointer.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let Some(rest) = text.strip_prefix('/') else {
            return Err(format!("is {text:?}, not a JSON Pointer; begin it with /, such as {:?}", format!("/{text}")));
        };
        let unescaped = |token: &str| -> Result<String, String> {
            let bare = token.replace("~0", "").replace("~1", "");
            if bare.contains('~') {
                return Err(format!("is {text:?}, not a JSON Pointer; write ~ as ~0, and / in a key as ~1"));
            }
            Ok(token.replace("~1", "/").replace("~0", "~"))
        };
        Ok(Self(rest.split('/').map(unescaped).collect::<Result<_, _>>()?))
    }

    /// The default name of a column or a label: the keys with dots between them.
    pub(super) fn dotted(&self) -> String {
        self.0.join(".")
    }

    /// This pointer followed by `other`.
    pub(super) fn join(&self, other: &Self) -> Self {
        Self(self.0.iter().chain(&other.0).cloned().collect())
    }
}

impl std::fmt::Display for Pointer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|token| write!(f, "/{}", escape(token)))
    }
}

/// A key escaped as a token of a pointer.
pub(super) fn escape(token: &str) -> String {
    token.replace('~', "~0").replace('/', "~1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_is_read_as_rfc_6901_has_it() {
        let read = |text: &str| Pointer::parse(text).map(|pointer| pointer.0);
        assert_eq!(read(""), Ok(vec![]));
        assert_eq!(read("/"), Ok(vec![String::new()]));
        assert_eq!(read("/a/0/b"), Ok(vec!["a".into(), "0".into(), "b".into()]));
        assert_eq!(read("/a~1b/m~0n/~01"), Ok(vec!["a/b".into(), "m~n".into(), "~1".into()]));
        for wrong in ["a", "a/b", "/a~", "/~2"] {
            assert!(read(wrong).unwrap_err().contains("JSON Pointer"), "{wrong}");
        }
        for text in ["", "/", "/a/0/b", "/a~1b/m~0n"] {
            assert_eq!(Pointer::parse(text).unwrap().to_string(), text);
        }
    }
}
