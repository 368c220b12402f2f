//! Evaluation: every step is counted, every operand checked, every error a value. As CEL has it,
//! `false && error` is false and `true || error` true, in either order, and so for all and exists.

use std::fmt;

use super::{
    compile::{Macro, MacroKind, Node},
    value::{Json, List, Map, Text, Value},
};

/// Why an expression has no value for an event.
#[derive(Debug, Clone)]
pub(super) enum Fault<'a> {
    NoKey(Text<'a>),
    NoIndex(i64),
    /// What was expected, and the kind of value that was there.
    Operand(&'static str, &'static str),
    Overflow,
    ZeroDivision,
    Conversion(&'static str),
    Cost,
}

impl fmt::Display for Fault<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoKey(key) => write!(f, "there is no key {:?}", key.as_str()),
            Self::NoIndex(index) => write!(f, "there is no item {index}"),
            Self::Operand(what, kind) => write!(f, "{what} takes no such operand: {kind}"),
            Self::Overflow => f.write_str("a number is too large"),
            Self::ZeroDivision => f.write_str("it divides by zero"),
            Self::Conversion(to) => write!(f, "a value is no {to}"),
            Self::Cost => f.write_str("it takes too many steps on this event"),
        }
    }
}

pub(super) type Outcome<'a> = Result<Value<'a>, Fault<'a>>;

/// One evaluation.
pub(super) struct Run<'a> {
    event: &'a Json,
    /// The macros' variables, outermost first.
    variables: Vec<Value<'a>>,
    /// That are left.
    steps: u32,
}

impl<'a> Run<'a> {
    pub(super) fn new(event: &'a Json, steps: u32) -> Self {
        Self { event, variables: Vec::new(), steps }
    }

    /// Once they have run out, every step fails: nothing absorbs that.
    pub(super) fn spend(&mut self, steps: usize) -> Result<(), Fault<'a>> {
        let left = u32::try_from(steps).ok().and_then(|steps| self.steps.checked_sub(steps));
        self.steps = left.unwrap_or(0);
        left.map(|_| ()).ok_or(Fault::Cost)
    }

    pub(super) fn eval(&mut self, node: &'a Node) -> Outcome<'a> {
        self.spend(1)?;
        match node {
            Node::Literal(json) => Ok(Value::of(json)),
            Node::Event => Ok(Value::of(self.event)),
            Node::Variable(depth) => Ok(self.variables.get(*depth).cloned().unwrap_or(Value::Null)),
            Node::Field(operand, name) => {
                self.field(operand, name, "a field")?.ok_or(Fault::NoKey(Text::Of(name)))
            }
            Node::Has(operand, name) => Ok(Value::Bool(self.field(operand, name, "has")?.is_some())),
            Node::Index(operand, index) => {
                let operand = self.eval(operand)?;
                let index = self.eval(index)?;
                self.index(&operand, index)
            }
            Node::List(items) => {
                let items = items.iter().map(|it| self.eval(it)).collect::<Result<Vec<_>, _>>()?;
                Ok(Value::List(List::Made(items.into())))
            }
            Node::Map(entries) => {
                let mut made = Vec::with_capacity(entries.len());
                for (key, value) in entries {
                    made.push((self.eval(key)?, self.eval(value)?));
                }
                Ok(Value::Map(Map::Made(made.into())))
            }
            Node::Not(it) => Ok(Value::Bool(!self.bool(it, "!")?)),
            Node::Negate(it) => match self.eval(it)? {
                Value::Int(it) => it.checked_neg().map(Value::Int).ok_or(Fault::Overflow),
                Value::Double(it) => Ok(Value::number(-it)),
                other => Err(Fault::Operand("-", other.kind())),
            },
            Node::And(a, b) => self.logic(a, b, false, "&&"),
            Node::Or(a, b) => self.logic(a, b, true, "||"),
            Node::If(parts) => {
                let [condition, then, otherwise] = &**parts;
                if self.bool(condition, "?")? { self.eval(then) } else { self.eval(otherwise) }
            }
            Node::Binary(operator, a, b) => {
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                self.binary(*operator, a, b)
            }
            Node::Call(function, arguments) => self.call(*function, arguments),
            Node::Matches(text, pattern) => {
                let text = self.text(text, "matches")?;
                self.spend(text.as_str().len().saturating_mul(pattern.steps_per_byte))?;
                Ok(Value::Bool(pattern.regex.is_match(text.as_str())))
            }
            Node::Macro(it) => {
                let depth = self.variables.len();
                let outcome = self.macro_call(it);
                self.variables.truncate(depth);
                outcome
            }
        }
    }

    /// `decisive` alone decides, whatever the other operand comes to.
    fn logic(&mut self, a: &'a Node, b: &'a Node, decisive: bool, sign: &'static str) -> Outcome<'a> {
        let first = self.bool(a, sign);
        if matches!(first, Ok(it) if it == decisive) {
            return Ok(Value::Bool(decisive));
        }
        match (first, self.bool(b, sign)) {
            (_, Ok(it)) if it == decisive => Ok(Value::Bool(decisive)),
            (Err(fault), _) | (Ok(_), Err(fault)) => Err(fault),
            (Ok(_), Ok(_)) => Ok(Value::Bool(!decisive)),
        }
    }

    fn macro_call(&mut self, it: &'a Macro) -> Outcome<'a> {
        let range = match self.eval(&it.range)? {
            Value::List(list) => list,
            Value::Map(map) => {
                self.spend(map.len())?;
                map.keys()
            }
            other => return Err(Fault::Operand("a macro", other.kind())),
        };
        let slot = self.variables.len();
        debug_assert_eq!(slot, it.variable, "variables are numbered as they nest");
        self.variables.push(Value::Null);
        match &it.kind {
            MacroKind::All(condition) => self.quantify(&range, slot, condition, false, "all"),
            MacroKind::Exists(condition) => self.quantify(&range, slot, condition, true, "exists"),
            MacroKind::ExistsOne(condition) => {
                let mut found = 0;
                for item in range.iter() {
                    self.variables[slot] = item;
                    found += usize::from(self.bool(condition, "exists_one")?);
                }
                Ok(Value::Bool(found == 1))
            }
            MacroKind::Map(condition, item_of) => {
                let mut made = Vec::new();
                for item in range.iter() {
                    self.variables[slot] = item;
                    let take = match condition {
                        Some(condition) => self.bool(condition, "filter")?,
                        None => true,
                    };
                    if take {
                        made.push(self.eval(item_of)?);
                    }
                }
                Ok(Value::List(List::Made(made.into())))
            }
        }
    }

    fn quantify(
        &mut self,
        range: &List<'a>,
        slot: usize,
        condition: &'a Node,
        decisive: bool,
        name: &'static str,
    ) -> Outcome<'a> {
        let mut fault = None;
        for item in range.iter() {
            self.variables[slot] = item;
            match self.bool(condition, name) {
                Ok(it) if it == decisive => return Ok(Value::Bool(decisive)),
                Ok(_) => {}
                Err(Fault::Cost) => return Err(Fault::Cost),
                Err(other) => fault = Some(other),
            }
        }
        fault.map_or(Ok(Value::Bool(!decisive)), Err)
    }

    fn bool(&mut self, node: &'a Node, what: &'static str) -> Result<bool, Fault<'a>> {
        match self.eval(node)? {
            Value::Bool(it) => Ok(it),
            other => Err(Fault::Operand(what, other.kind())),
        }
    }

    pub(super) fn text(&mut self, node: &'a Node, what: &'static str) -> Result<Text<'a>, Fault<'a>> {
        match self.eval(node)? {
            Value::Text(text) => Ok(text),
            other => Err(Fault::Operand(what, other.kind())),
        }
    }

    fn field(
        &mut self,
        node: &'a Node,
        name: &'a str,
        what: &'static str,
    ) -> Result<Option<Value<'a>>, Fault<'a>> {
        match self.eval(node)? {
            Value::Map(map) => self.look_up(&map, name),
            other => Err(Fault::Operand(what, other.kind())),
        }
    }

    /// The node has paid for one comparison.
    fn look_up(&mut self, map: &Map<'a>, name: &'a str) -> Result<Option<Value<'a>>, Fault<'a>> {
        let key = Value::Text(Text::Of(name));
        self.spend(map.cost_of_get(&key).saturating_sub(1))?;
        Ok(map.get(&key))
    }
}
