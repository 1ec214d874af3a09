import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { test } from 'node:test'
import { Sandbox } from 'e2b'

async function ids(paginator) {
  const found = []
  while (paginator.hasNext) {
    found.push(...(await paginator.nextItems()).map((info) => info.sandboxId))
  }
  return found
}

async function withThree(body) {
  const mark = randomUUID()
  const made = []
  try {
    for (const n of ['0', '1', '2']) {
      made.push(await Sandbox.create({ timeoutMs: 120_000, metadata: { mark, n } }))
    }
    await body(mark, made.map((sandbox) => sandbox.sandboxId))
  } finally {
    for (const sandbox of made) await sandbox.kill()
  }
}

test('newest first, filters and pages', () =>
  withThree(async (mark, made) => {
    const newest = [...made].reverse()
    const query = { metadata: { mark } }
    assert.deepEqual(await ids(Sandbox.list({ query })), newest)
    assert.deepEqual(await ids(Sandbox.list({ query, order: 'asc' })), made)
    assert.deepEqual(await ids(Sandbox.list({ query, limit: 1 })), newest)
    assert.deepEqual(await ids(Sandbox.list({ query: { metadata: { mark, n: '1' } } })), [made[1]])
    const paused = { metadata: { mark }, state: ['paused'] }
    assert.deepEqual(await ids(Sandbox.list({ query: paused })), [])
    const running = { metadata: { mark }, state: ['running'], template: 'base' }
    assert.deepEqual(await ids(Sandbox.list({ query: running })), newest)
  }))

test('the token carries on where the page ended', () =>
  withThree(async (mark, made) => {
    const query = { metadata: { mark } }
    const first = Sandbox.list({ query, limit: 2 })
    await first.nextItems()
    const rest = Sandbox.list({ query, limit: 2, nextToken: first.nextToken })
    assert.deepEqual(await ids(rest), [made[0]])
  }))
