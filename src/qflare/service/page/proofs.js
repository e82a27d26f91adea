// Proofs of the log's tree, checked with SHA-256 from WebCrypto alone (RFC 9162, section 2.1).
//
// Indexes are plain numbers: a log of 2^53 entries is beyond reach, and no operator below works on 32 bits.

const HASH_BYTES = 32;

async function digest(prefix, ...parts) {
  const bytes = new Uint8Array(1 + parts.reduce((size, part) => size + part.length, 0));
  bytes[0] = prefix;
  let at = 1;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

export const hashLeaf = (leaf) => digest(0x00, leaf);
export const hashChildren = (left, right) => digest(0x01, left, right);

export function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

export function isSame(one, other) {
  return one.length === other.length && one.every((byte, place) => byte === other[place]);
}

function isOdd(value) {
  return value % 2 === 1;
}

function half(value) {
  return Math.floor(value / 2);
}

function areHashes(path) {
  return path.every((node) => node.length === HASH_BYTES);
}

// Whether the tree of `size` leaves with `root` has this leaf hash at `index` (section 2.1.3.2).
export async function leadsTo(root, leafHash, index, size, path) {
  if (!Number.isSafeInteger(index) || !Number.isSafeInteger(size) || index < 0 || index >= size || !areHashes(path)) {
    return false;
  }
  let here = index;
  let last = size - 1;
  let node = leafHash;
  for (const sibling of path) {
    if (last === 0) {
      return false;
    }
    if (isOdd(here) || here === last) {
      node = await hashChildren(sibling, node);
      while (!isOdd(here) && here !== 0) {
        here = half(here);
        last = half(last);
      }
    } else {
      node = await hashChildren(node, sibling);
    }
    here = half(here);
    last = half(last);
  }
  return last === 0 && isSame(node, root);
}

// Whether the tree of `newSize` leaves begins with that of `oldSize` (section 2.1.4.2).
export async function continues(oldRoot, oldSize, newRoot, newSize, path) {
  if (!Number.isSafeInteger(oldSize) || !Number.isSafeInteger(newSize) || oldSize < 1 || oldSize > newSize || !areHashes(path)) {
    return false;
  }
  if (oldSize === newSize) {
    return path.length === 0 && isSame(oldRoot, newRoot);
  }
  // A whole subtree is a node of the newer tree, so the proof leaves it out.
  const nodes = Number.isInteger(Math.log2(oldSize)) ? [oldRoot, ...path] : [...path];
  if (nodes.length === 0) {
    return false;
  }
  let here = oldSize - 1;
  let last = newSize - 1;
  while (isOdd(here)) {
    here = half(here);
    last = half(last);
  }
  let oldNode = nodes[0];
  let newNode = nodes[0];
  for (const sibling of nodes.slice(1)) {
    if (last === 0) {
      return false;
    }
    if (isOdd(here) || here === last) {
      oldNode = await hashChildren(sibling, oldNode);
      newNode = await hashChildren(sibling, newNode);
      while (!isOdd(here) && here !== 0) {
        here = half(here);
        last = half(last);
      }
    } else {
      newNode = await hashChildren(newNode, sibling);
    }
    here = half(here);
    last = half(last);
  }
  return last === 0 && isSame(oldNode, oldRoot) && isSame(newNode, newRoot);
}
