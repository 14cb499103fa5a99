//! How clients that cannot type `@` write their logins. Pure.

/// Which octet of a login stands for `@`: the first of the delimiters that is in it at all. Where that
/// is there more than once, it is the last, since what is before `@` may hold what a domain cannot.
/// None where the login has its `@`.
pub(super) fn delimiter(login: &[u8], delimiters: &[u8]) -> Option<usize> {
    if login.contains(&b'@') {
        return None;
    }
    delimiters
        .iter()
        .find_map(|delimiter| memchr::memrchr(*delimiter, login))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_delimiter_that_occurs_wins_and_of_that_the_last() {
        for (login, delimiters, meant) in [
            ("joe%example.org", "%#:", "joe@example.org"),
            ("joe:example.org", "%#:", "joe@example.org"),
            ("joe#a%example.org", "%#", "joe#a@example.org"),
            ("joe#a%example.org", "#%", "joe@a%example.org"),
            ("joe+tax+example.org", "+", "joe+tax@example.org"),
            ("example\\joe/shared", "\\/", "example@joe/shared"),
            ("joe%example.org", "", "joe%example.org"),
            ("joe", "%#:", "joe"),
            ("joe%a@example.org", "%", "joe%a@example.org"),
            ("", "%", ""),
        ] {
            let mut spelt = login.as_bytes().to_vec();
            if let Some(place) = delimiter(login.as_bytes(), delimiters.as_bytes()) {
                spelt[place] = b'@';
            }
            assert_eq!(spelt, meant.as_bytes(), "{login} by {delimiters}");
        }
    }
}
