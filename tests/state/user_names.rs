//! Whom a text means where a user is named: an id, or who signs in by a name.

use fanfare::internals::auth::{Standing, names};
use fanfare::internals::clock::Moment;
use fanfare::internals::id::UserId;
use fanfare::internals::state::command::Ask as _;
use fanfare::internals::state::durable::{AccountChange, Write};
use fanfare::internals::state::effect::Effect;
use fanfare::internals::state::messaging::commands::{ApplyAccounts, StoreChange};
use fanfare::internals::state::{State, lone_node};

const NOW: Moment = Moment::new(1_000, 1);

fn change(id: &str, name: Option<&str>, is_removed: bool) -> AccountChange {
    AccountChange {
        user_id: UserId::new(id),
        name_key: name.map(|name| names::key(name).into()),
        standing: Standing { is_disabled: false, tokens_from_ms: 0, kept_token: None },
        is_removed,
        changed_ms: 1,
    }
}

/// Ann signs in by that name, and another user has it as an id.
fn state() -> State {
    let mut state = lone_node("n", None, NOW);
    let changes = vec![
        change("u1", Some("Ann"), false),
        change("ann", None, false),
        change("u2", None, false),
    ];
    state.apply(ApplyAccounts(changes).unanswered(), NOW);
    state
}

/// A write as it goes to the store; none where it is refused.
fn stored(state: &mut State, write: Write) -> Option<Write> {
    state.take_effects();
    state.apply(StoreChange(write).unanswered(), NOW);
    state.take_effects().into_iter().find_map(|effect| match effect {
        Effect::Store(store) => Some(store.write),
        _ => None,
    })
}

/// The user that a text means.
fn find(state: &mut State, text: &str) -> Option<String> {
    let (group_id, user_id, by) = (String::from("g"), UserId::new(text), UserId::new("u2"));
    match stored(state, Write::RemoveMember { group_id, user_id, by })? {
        Write::RemoveMember { user_id, .. } => Some(user_id.to_string()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_id_is_an_id_and_a_name_says_that_it_is_one() {
    let mut state = state();
    for (text, expected) in [
        ("ann", Some("ann")),
        ("name:ann", Some("u1")),
        ("name:ANN", Some("u1")),
        ("name:u2", None),
        ("name:", None),
        ("nobody", Some("nobody")),
    ] {
        assert_eq!(find(&mut state, text).as_deref(), expected, "{text}");
    }
}

#[test]
fn a_removed_user_is_unknown_and_the_name_is_free() {
    let mut state = state();
    for _ in 0..2 {
        state.apply(ApplyAccounts(vec![change("u1", None, true)]).unanswered(), NOW);
        assert_eq!(find(&mut state, "name:ann"), None, "a change may be told of often");
        let (group_id, user_id, by) = (String::from("g"), UserId::new("u1"), UserId::new("u2"));
        assert!(stored(&mut state, Write::AddMember { group_id, user_id, by }).is_none());
    }
    state.apply(ApplyAccounts(vec![change("u3", Some("Ann"), false)]).unanswered(), NOW);
    assert_eq!(find(&mut state, "name:ann").as_deref(), Some("u3"));
}

#[test]
fn a_member_named_twice_is_one() {
    let members = ["u2", "name:ann", "u1"].map(UserId::new).to_vec();
    let invited = ["ann", "name:Ann", "ann"].map(UserId::new).to_vec();
    let (group_id, name, owner) = (String::from("g"), String::from("G"), UserId::new("u2"));
    let write = Write::CreateGroup { group_id, name, owner, members, invited, at_ms: 1 };
    let write = stored(&mut state(), write).expect("all are there");
    let Write::CreateGroup { members, invited, .. } = write else { panic!("{write:?}") };
    assert_eq!(members, ["u2", "u1"].map(UserId::new));
    assert_eq!(invited, ["ann"].map(UserId::new));
}
