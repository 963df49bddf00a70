//! Whose instances a reader wants first: those of its own zone, then those of its region, then the others.
//!
//! Servers put lists in this order, clients choose by it. Artemis' region and Eureka's zone are meant by the same
//! words.
//!
//! Imports `instance` and `limits`. Imported by the server and the client.

use serde::{Deserialize, Serialize};

use crate::instance::{Instance, check_optional_name};
use crate::limits;

/// A preference for a region, a zone, or both. Names compare without case (ASCII); an empty one is none.
///
/// ```
/// use fanfare_protocol::preference::{Preference, Distance};
///
/// let preference: Preference = serde_json::from_str(r#"{"region": "eu", "zone": "a", "min": 2}"#)?;
/// assert_eq!(preference.distance(Some("EU"), Some("a")), Distance::Zone);
/// assert_eq!(preference.distance(Some("eu"), Some("b")), Distance::Region);
/// assert_eq!(preference.distance(None, Some("a")), Distance::Elsewhere);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Preference {
    /// The region.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub region: Option<Box<str>>,
    /// The zone, within that region where one is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Box<str>>,
    /// How many instances have to be up nearby before those further away are left out. None: a list leaves out
    /// nobody, and a choice needs one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min: Option<u32>,
}

/// How far an instance is from a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distance {
    /// In all that the reader prefers.
    Zone,
    /// In its region, in another zone.
    Region,
    /// Anywhere else.
    Elsewhere,
}

impl Preference {
    /// A preference for a zone of any region.
    pub fn for_zone(zone: &str) -> Preference {
        Preference { zone: Some(zone.into()), ..Preference::default() }
    }

    /// The same, for that region.
    #[must_use]
    pub fn in_region(mut self, region: &str) -> Preference {
        self.region = Some(region.into());
        self
    }

    /// The same, with those further away for as long as fewer than `min` are up nearby.
    #[must_use]
    pub fn with_min(mut self, min: u32) -> Preference {
        self.min = Some(min);
        self
    }

    /// Whether it prefers nobody.
    pub fn is_indifferent(&self) -> bool {
        filled(self.region.as_deref()).is_none() && filled(self.zone.as_deref()).is_none()
    }

    /// How far an instance of a region and zone is.
    pub fn distance(&self, region: Option<&str>, zone: Option<&str>) -> Distance {
        let is_in = |wanted: Option<&str>, at: Option<&str>| {
            filled(wanted)
                .is_none_or(|wanted| at.is_some_and(|name| name.eq_ignore_ascii_case(wanted)))
        };
        match (is_in(self.region.as_deref(), region), is_in(self.zone.as_deref(), zone)) {
            (true, true) => Distance::Zone,
            (true, false) if filled(self.region.as_deref()).is_some() => Distance::Region,
            _ => Distance::Elsewhere,
        }
    }

    /// How far an instance is.
    pub fn distance_of(&self, instance: &Instance) -> Distance {
        self.distance(instance.region_id.as_deref(), instance.zone_id.as_deref())
    }

    /// The furthest distance that is needed where so many instances are up at each, and at least `min` of them are
    /// wanted.
    pub fn reach(min: usize, up_in_zone: usize, up_in_region: usize) -> Distance {
        if up_in_zone >= min {
            Distance::Zone
        } else if up_in_zone + up_in_region >= min {
            Distance::Region
        } else {
            Distance::Elsewhere
        }
    }

    /// Checks the names. None where it prefers nobody.
    ///
    /// # Errors
    ///
    /// As [`check`](Preference::check).
    pub fn checked(self) -> Result<Option<Preference>, String> {
        self.check()?;
        Ok(Some(self).filter(|preference| !preference.is_indifferent()))
    }

    /// Checks the names: as those of an instance.
    ///
    /// # Errors
    ///
    /// The first field that is out of bounds, by name.
    pub fn check(&self) -> Result<(), String> {
        for (field, text) in [("prefer.region", &self.region), ("prefer.zone", &self.zone)] {
            check_optional_name(field, text.as_deref().unwrap_or_default())?;
        }
        Ok(())
    }
}

/// The weight of an instance in a weighted choice: 0 is never chosen.
pub fn weight_of(instance: &Instance) -> u16 {
    instance.weight.unwrap_or(limits::WEIGHT_DEFAULT)
}

fn filled(text: Option<&str>) -> Option<&str> {
    text.filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zone_without_a_region_is_that_zone_in_any() {
        let zone = Preference::for_zone("a");
        assert_eq!(zone.distance(Some("r"), Some("A")), Distance::Zone);
        assert_eq!(zone.distance(None, Some("a")), Distance::Zone);
        assert_eq!(
            zone.distance(Some("r"), Some("b")),
            Distance::Elsewhere,
            "no region is preferred"
        );
        assert_eq!(zone.distance(Some("r"), None), Distance::Elsewhere);
    }

    #[test]
    fn a_region_without_a_zone_has_one_distance_and_the_rest() {
        let region = Preference { region: Some("r".into()), ..Preference::default() };
        assert_eq!(region.distance(Some("R"), Some("a")), Distance::Zone);
        assert_eq!(region.distance(Some("r"), None), Distance::Zone);
        assert_eq!(region.distance(Some("s"), Some("a")), Distance::Elsewhere);
    }

    #[test]
    fn an_empty_name_is_none_and_a_bad_one_is_named() {
        let empty = Preference::for_zone("").in_region("");
        assert!(empty.is_indifferent() && empty.check().is_ok());
        assert_eq!(empty.distance(Some("r"), Some("a")), Distance::Zone, "everybody is near");
        let fault = Preference::for_zone("a\n").check().expect_err("a control character");
        assert!(fault.contains("prefer.zone"), "{fault}");
    }

    #[test]
    fn it_reaches_as_far_as_it_has_to() {
        assert_eq!(Preference::reach(2, 2, 5), Distance::Zone);
        assert_eq!(Preference::reach(2, 1, 1), Distance::Region);
        assert_eq!(Preference::reach(2, 1, 0), Distance::Elsewhere);
        assert_eq!(Preference::reach(0, 0, 0), Distance::Zone);
    }
}
