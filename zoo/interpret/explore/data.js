"use strict";

// The description of the page, and maps that are decompressed when a head of their layer is first shown.

const description = JSON.parse(document.getElementById("description").textContent);

async function inflate(block) {
  const text = atob(document.getElementById(`block-${block}`).textContent);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The maps of one layer: see StrongestKeys in strongest.py for the order of the bytes.
class LayerMaps {
  constructor(layer, bytes) {
    [this.heads, this.queries, this.keys, this.kept] = layer.shape;
    this.scale = layer.scale;
    this.signed = layer.signed;
    const sizes = [this.queries * this.kept, this.queries * this.kept, this.queries * this.kept, this.queries, this.keys];
    let start = 0;
    [this.low, this.high, this.codes, this.rest, this.received] = sizes.map((size) => {
      const part = bytes.subarray(start, start + size * this.heads);
      start += size * this.heads;
      return part;
    });
  }

  decode(code) {
    return this.scale * (code / 255) ** 2;
  }

  decodeSigned(code) {
    return this.scale * Math.sign(code - 128) * ((code - 128) / 127) ** 2;
  }

  head(number) {
    return new HeadMap(this, number);
  }
}

// One head: the strongest keys of each query, with their weights.
class HeadMap {
  constructor(maps, head) {
    const size = maps.queries * maps.kept;
    const empty = maps.signed ? 128 : 0;
    this.queries = maps.queries;
    this.keys = maps.keys;
    this.kept = maps.kept;
    this.columns = new Uint16Array(size);
    this.weights = new Float32Array(size);
    this.most = 0;
    for (let query = 0, i = 0; query < maps.queries; query++) {
      for (let rank = 0, column = 0; rank < maps.kept; rank++, i++) {
        const at = head * size + i;
        column += maps.low[at] + 256 * maps.high[at];
        this.columns[i] = column;
        const code = maps.codes[at];
        if (code === empty) continue;
        this.weights[i] = maps.signed ? maps.decodeSigned(code) : maps.decode(code);
        this.most = Math.max(this.most, Math.abs(this.weights[i]));
      }
    }
    const part = (values, count) => Float32Array.from(values.subarray(head * count, (head + 1) * count), (c) => maps.decode(c));
    this.rest = part(maps.rest, maps.queries);
    this.received = part(maps.received, maps.keys);
  }

  // [position, weight] of the keys of a query, strongest first.
  strongest(query) {
    const found = [];
    for (let i = query * this.kept; i < (query + 1) * this.kept; i++) {
      if (this.weights[i] !== 0) found.push([this.columns[i], this.weights[i]]);
    }
    return found.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
  }

  // [position, weight] of the queries among whose strongest keys a key is.
  attending(key) {
    const found = [];
    for (let i = 0; i < this.columns.length; i++) {
      if (this.columns[i] === key && this.weights[i] !== 0) found.push([Math.floor(i / this.kept), this.weights[i]]);
    }
    return found.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
  }
}

function percent(weight) {
  const value = 100 * weight;
  return `${Math.abs(value) >= 9.95 ? value.toFixed(0) : value.toFixed(1)}%`;
}
