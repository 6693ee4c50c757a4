//! Writes ONNX models, for tests.

/// A message of protobuf's.
#[derive(Debug, Clone, Default)]
pub struct Message(pub Vec<u8>);

impl Message {
    fn varint(mut self, mut value: u64) -> Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    pub fn int(self, number: u64, value: i64) -> Self {
        self.varint(number << 3).varint(value as u64)
    }

    pub fn float(self, number: u64, value: f32) -> Self {
        let mut message = self.varint(number << 3 | 5);
        message.0.extend(value.to_le_bytes());
        message
    }

    pub fn bytes(self, number: u64, bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref();
        let mut message = self.varint(number << 3 | 2).varint(bytes.len() as u64);
        message.0.extend(bytes);
        message
    }

    pub fn message(self, number: u64, inner: &Self) -> Self {
        self.bytes(number, &inner.0)
    }
}

pub const FLOAT: i64 = 1;
pub const INT64: i64 = 7;
pub const FLOAT16: i64 = 10;
pub const BFLOAT16: i64 = 16;

/// A `TensorProto` of numbers, stored as the element type says.
pub fn tensor(name: &str, element: i64, dims: &[usize], values: &[f64]) -> Message {
    let raw: Vec<u8> = values
        .iter()
        .flat_map(|&value| match element {
            FLOAT => (value as f32).to_le_bytes().to_vec(),
            FLOAT16 => half::f16::from_f64(value).to_le_bytes().to_vec(),
            BFLOAT16 => half::bf16::from_f64(value).to_le_bytes().to_vec(),
            INT64 => (value as i64).to_le_bytes().to_vec(),
            11 => value.to_le_bytes().to_vec(),
            // The caller brings the bytes.
            _ => Vec::new(),
        })
        .collect();
    let dims = dims.iter().fold(Message::default(), |message, &dim| message.int(1, dim as i64));
    let header = dims.int(2, element).bytes(8, name);
    if raw.is_empty() { header } else { header.bytes(9, raw) }
}

/// An attribute of a node.
#[derive(Debug, Clone)]
pub enum Value<'a> {
    Int(i64),
    Float(f32),
    Ints(&'a [i64]),
    Text(&'a str),
    Tensor(Message),
    Graph(Message),
}

pub fn attribute(name: &str, value: &Value<'_>) -> Message {
    let attribute = Message::default().bytes(1, name);
    match value {
        Value::Int(value) => attribute.int(3, *value).int(20, 2),
        Value::Float(value) => attribute.float(2, *value).int(20, 1),
        Value::Ints(values) => values.iter().fold(attribute, |attribute, &value| attribute.int(8, value)).int(20, 7),
        Value::Text(text) => attribute.bytes(4, text).int(20, 3),
        Value::Tensor(tensor) => attribute.message(5, tensor).int(20, 4),
        Value::Graph(graph) => attribute.message(6, graph).int(20, 5),
    }
}

pub fn node(op: &str, inputs: &[&str], outputs: &[&str], attributes: &[(&str, Value<'_>)]) -> Message {
    let node = inputs.iter().fold(Message::default(), |node, input| node.bytes(1, input));
    let node = outputs.iter().fold(node, |node, output| node.bytes(2, output));
    let node = node.bytes(3, format!("n_{}", outputs[0])).bytes(4, op);
    attributes.iter().fold(node, |node, (name, value)| node.message(5, &attribute(name, value)))
}

/// A `ValueInfoProto`; a length of 0 is one that is left open.
pub fn value_info(name: &str, element: i64, dims: &[usize]) -> Message {
    let dim =
        |&dim: &usize| if dim == 0 { Message::default().bytes(2, "N") } else { Message::default().int(1, dim as i64) };
    let shape = dims.iter().fold(Message::default(), |shape, len| shape.message(1, &dim(len)));
    let tensor = Message::default().int(1, element).message(2, &shape);
    Message::default().bytes(1, name).message(2, &Message::default().message(1, &tensor))
}

/// A model in the making.
#[derive(Debug, Clone)]
pub struct Builder {
    opset: i64,
    pub ir_version: i64,
    element: i64,
    nodes: Vec<Message>,
    initializers: Vec<Message>,
    inputs: Vec<Message>,
    outputs: Vec<Message>,
    /// Further fields of the graph and of the model.
    pub graph_extra: Message,
    pub model_extra: Message,
    seed: u64,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            opset: 17,
            ir_version: 8,
            element: FLOAT,
            nodes: Vec::new(),
            initializers: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            graph_extra: Message::default(),
            model_extra: Message::default(),
            seed: 1,
        }
    }
}

impl Builder {
    pub fn opset(mut self, opset: i64) -> Self {
        self.opset = opset;
        self
    }

    /// The type of what is added from here on.
    pub fn element(mut self, element: i64) -> Self {
        self.element = element;
        self
    }

    pub fn input(mut self, name: &str, dims: &[usize]) -> Self {
        self.inputs.push(value_info(name, self.element, dims));
        self
    }

    pub fn raw_input(mut self, info: Message) -> Self {
        self.inputs.push(info);
        self
    }

    pub fn output(mut self, name: &str) -> Self {
        self.outputs.push(value_info(name, self.element, &[]));
        self
    }

    pub fn node(mut self, op: &str, inputs: &[&str], output: &str, attributes: &[(&str, Value<'_>)]) -> Self {
        self.nodes.push(node(op, inputs, &[output], attributes));
        self
    }

    pub fn raw_node(mut self, node: Message) -> Self {
        self.nodes.push(node);
        self
    }

    pub fn initializer(mut self, tensor: Message) -> Self {
        self.initializers.push(tensor);
        self
    }

    /// An initializer with these numbers.
    pub fn constant(self, name: &str, dims: &[usize], values: &[f64]) -> Self {
        let tensor = tensor(name, self.element, dims, values);
        self.initializer(tensor)
    }

    /// An initializer with numbers between -1 and 1, none of them close to 0.
    pub fn random(mut self, name: &str, dims: &[usize]) -> Self {
        let values: Vec<_> = (0..dims.iter().product()).map(|_| self.next()).collect();
        self.constant(name, dims, &values)
    }

    fn next(&mut self) -> f64 {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let value = 2.0 * ((self.seed >> 11) as f64 / (1_u64 << 53) as f64) - 1.0;
        value + 0.05_f64.copysign(value)
    }

    /// A `BatchNormalization` with random parameters.
    pub fn batch_norm(mut self, input: &str, output: &str, channels: usize) -> Self {
        let var: Vec<_> = (0..channels).map(|_| self.next().abs() + 0.1).collect();
        let name = |part: &str| format!("{output}.{part}");
        let (weight, bias, mean, variance) = (name("weight"), name("bias"), name("mean"), name("var"));
        self.random(&weight, &[channels])
            .random(&bias, &[channels])
            .random(&mean, &[channels])
            .constant(&variance, &[channels], &var)
            .node(
                "BatchNormalization",
                &[input, &weight, &bias, &mean, &variance],
                output,
                &[("epsilon", Value::Float(1e-3))],
            )
    }

    pub fn graph(&self) -> Message {
        let add = |graph: Message, number: u64, messages: &[Message]| {
            messages.iter().fold(graph, |graph, message| graph.message(number, message))
        };
        let graph = add(Message::default(), 1, &self.nodes).bytes(2, "graph");
        let graph = add(add(add(graph, 5, &self.initializers), 11, &self.inputs), 12, &self.outputs);
        Message([graph.0, self.graph_extra.0.clone()].concat())
    }

    pub fn build(&self) -> Vec<u8> {
        let model = Message::default().int(1, self.ir_version).bytes(2, "warpnorm's tests").message(7, &self.graph());
        let model = model.message(8, &Message::default().int(2, self.opset));
        [model.0, self.model_extra.0.clone()].concat()
    }
}

/// A convolution of `x` to `c`, which pads by 1.
pub fn conv(kernel: &[usize], inputs: usize, outputs: usize, groups: usize, bias: bool) -> Builder {
    let rank = kernel.len();
    let dims = [&[outputs, inputs / groups], kernel].concat();
    let x = [&[2, inputs], &vec![6; rank][..]].concat();
    let builder = Builder::default().input("x", &x).random("w", &dims).random("b", &[outputs]).output("y");
    let inputs = if bias { &["x", "w", "b"][..] } else { &["x", "w"] };
    let pads = vec![1; 2 * rank];
    builder.node("Conv", inputs, "c", &[("group", Value::Int(groups as i64)), ("pads", Value::Ints(&pads))])
}
