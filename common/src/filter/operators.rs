//! Operators and functions.

use std::cmp::Ordering;

use super::{
    compile::{Binary, Function, Node},
    eval::{Fault, Outcome, Run},
    value::{List, Value},
};

impl<'a> Run<'a> {
    pub(super) fn index(&mut self, operand: &Value<'a>, index: Value<'a>) -> Outcome<'a> {
        match (operand, index) {
            (Value::List(list), Value::Int(index)) => {
                usize::try_from(index).ok().and_then(|at| list.get(at)).ok_or(Fault::NoIndex(index))
            }
            (Value::Map(map), index) => {
                self.spend(map.cost_of_get(&index))?;
                map.get(&index).ok_or(match index {
                    Value::Text(key) => Fault::NoKey(key),
                    other => Fault::Operand("[…]", other.kind()),
                })
            }
            (Value::List(_), other) => Err(Fault::Operand("[…]", other.kind())),
            (other, _) => Err(Fault::Operand("[…]", other.kind())),
        }
    }

    pub(super) fn binary(&mut self, operator: Binary, a: Value<'a>, b: Value<'a>) -> Outcome<'a> {
        match operator {
            Binary::Equal => self.equal(&a, &b).map(Value::Bool),
            Binary::NotEqual => self.equal(&a, &b).map(|it| Value::Bool(!it)),
            Binary::Less => self.ordered("<", &a, &b, Ordering::is_lt),
            Binary::LessOrEqual => self.ordered("<=", &a, &b, Ordering::is_le),
            Binary::Greater => self.ordered(">", &a, &b, Ordering::is_gt),
            Binary::GreaterOrEqual => self.ordered(">=", &a, &b, Ordering::is_ge),
            Binary::In => match b {
                Value::List(list) => {
                    for item in list.iter() {
                        if self.equal(&a, &item)? {
                            return Ok(Value::Bool(true));
                        }
                    }
                    Ok(Value::Bool(false))
                }
                Value::Map(map) => {
                    self.spend(map.cost_of_get(&a))?;
                    Ok(Value::Bool(map.get(&a).is_some()))
                }
                other => Err(Fault::Operand("in", other.kind())),
            },
            Binary::Add | Binary::Subtract | Binary::Multiply | Binary::Divide | Binary::Modulo => {
                self.arithmetic(operator, a, b)
            }
        }
    }

    fn ordered(
        &mut self,
        sign: &'static str,
        a: &Value<'a>,
        b: &Value<'a>,
        fits: fn(Ordering) -> bool,
    ) -> Outcome<'a> {
        if let (Value::Text(a), Value::Text(b)) = (a, b) {
            self.spend(a.as_str().len().min(b.as_str().len()) / 8)?;
        }
        match a.order(b) {
            Some(order) => Ok(Value::Bool(fits(order))),
            None => Err(Fault::Operand(sign, if a.kind() == b.kind() { a.kind() } else { "two kinds" })),
        }
    }

    fn arithmetic(&mut self, operator: Binary, a: Value<'a>, b: Value<'a>) -> Outcome<'a> {
        match (operator, a, b) {
            (_, Value::Int(a), Value::Int(b)) => {
                if b == 0 && matches!(operator, Binary::Divide | Binary::Modulo) {
                    return Err(Fault::ZeroDivision);
                }
                match operator {
                    Binary::Add => a.checked_add(b),
                    Binary::Subtract => a.checked_sub(b),
                    Binary::Multiply => a.checked_mul(b),
                    Binary::Divide => a.checked_div(b),
                    _ => a.checked_rem(b),
                }
                .map(Value::Int)
                .ok_or(Fault::Overflow)
            }
            (Binary::Add, Value::Text(a), Value::Text(b)) => {
                let (a, b) = (a.as_str(), b.as_str());
                self.spend((a.len() + b.len()) / 8)?;
                Ok(Value::made([a, b].concat()))
            }
            (Binary::Add, Value::List(a), Value::List(b)) => {
                self.spend(a.len() + b.len())?;
                Ok(Value::List(List::Made(a.iter().chain(b.iter()).collect())))
            }
            (_, a, b) => {
                let (Some(x), Some(y)) = (a.as_double(), b.as_double()) else {
                    let odd = if a.as_double().is_some() { b } else { a };
                    return Err(Fault::Operand("arithmetic", odd.kind()));
                };
                match operator {
                    Binary::Add => Ok(Value::number(x + y)),
                    Binary::Subtract => Ok(Value::number(x - y)),
                    Binary::Multiply => Ok(Value::number(x * y)),
                    Binary::Divide => Ok(Value::number(x / y)),
                    _ => Err(Fault::Operand("%", "a double")),
                }
            }
        }
    }

    /// Values of different kinds are not equal; an int and a double are, when they are.
    fn equal(&mut self, a: &Value<'a>, b: &Value<'a>) -> Result<bool, Fault<'a>> {
        self.spend(1)?;
        match (a, b) {
            (Value::Null, Value::Null) => Ok(true),
            (Value::Text(a), Value::Text(b)) => {
                let (a, b) = (a.as_str(), b.as_str());
                self.spend(if a.len() == b.len() { a.len() / 8 } else { 0 })?;
                Ok(a == b)
            }
            (Value::List(a), Value::List(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for (a, b) in a.iter().zip(b.iter()) {
                    if !self.equal(&a, &b)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (Value::Map(a), Value::Map(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                self.spend(a.len())?;
                for key in a.keys().iter() {
                    self.spend(a.cost_of_get(&key) + b.cost_of_get(&key))?;
                    let equal = match (a.get(&key), b.get(&key)) {
                        (Some(a), Some(b)) => self.equal(&a, &b)?,
                        _ => false,
                    };
                    if !equal {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (a, b) => Ok(a.order(b) == Some(Ordering::Equal)),
        }
    }

    pub(super) fn call(&mut self, function: Function, arguments: &'a [Node]) -> Outcome<'a> {
        match arguments {
            [it] => {
                let it = self.eval(it)?;
                self.convert(function, it)
            }
            [text, part] => {
                let name = match function {
                    Function::StartsWith => "startsWith",
                    Function::EndsWith => "endsWith",
                    _ => "contains",
                };
                let (text, part) = (self.text(text, name)?, self.text(part, name)?);
                let (text, part) = (text.as_str(), part.as_str());
                let read = if name == "contains" { text.len() } else { text.len().min(part.len()) };
                self.spend(read / 8)?;
                Ok(Value::Bool(match function {
                    Function::StartsWith => text.starts_with(part),
                    Function::EndsWith => text.ends_with(part),
                    _ => text.contains(part),
                }))
            }
            _ => Err(Fault::Operand("a function", "no argument")),
        }
    }

    fn convert(&mut self, function: Function, it: Value<'a>) -> Outcome<'a> {
        if let Value::Text(text) = &it {
            self.spend(text.as_str().len() / 8)?;
        }
        match (function, it) {
            (Function::Dyn, it) => Ok(it),
            (Function::Size, Value::Text(it)) => Ok(count(it.as_str().chars().count())),
            (Function::Size, Value::List(it)) => Ok(count(it.len())),
            (Function::Size, Value::Map(it)) => Ok(count(it.len())),
            (Function::Int | Function::Double, it @ Value::Int(_)) => Ok(it),
            (Function::Double, it @ Value::Double(_)) => Ok(it),
            (Function::Int, Value::Double(it)) => match Value::number(it.trunc()) {
                it @ Value::Int(_) => Ok(it),
                _ => Err(Fault::Overflow),
            },
            (Function::Int, Value::Text(it)) => {
                it.as_str().parse().map(Value::Int).map_err(|_| Fault::Conversion("int"))
            }
            (Function::Double, Value::Text(it)) => {
                it.as_str().parse().map(Value::number).map_err(|_| Fault::Conversion("double"))
            }
            (Function::Bool, it @ Value::Bool(_)) | (Function::String, it @ Value::Text(_)) => Ok(it),
            (Function::Bool, Value::Text(it)) => {
                it.as_str().parse().map(Value::Bool).map_err(|_| Fault::Conversion("boolean"))
            }
            (Function::String, Value::Bool(it)) => Ok(Value::made(it.to_string())),
            (Function::String, Value::Int(it)) => Ok(Value::made(it.to_string())),
            (Function::String, Value::Double(it)) => Ok(Value::made(it.to_string())),
            (Function::Size, other) => Err(Fault::Operand("size", other.kind())),
            (_, other) => Err(Fault::Operand("a conversion", other.kind())),
        }
    }
}

fn count(count: usize) -> Value<'static> {
    Value::Int(i64::try_from(count).unwrap_or(i64::MAX))
}
