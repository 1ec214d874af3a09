import assert from 'node:assert/strict'
import { test } from 'node:test'
import { FilesystemEventType, FileNotFoundError } from 'e2b'
import { eventually, withSandbox } from './fixtures.mjs'

async function watched(sandbox, path, options) {
  const events = []
  const handle = await sandbox.files.watchDir(path, (event) => events.push(event), options)
  const saw = (type, name) =>
    eventually(
      () => events.find((event) => event.type === type && event.name === name),
      10_000,
      `${type} ${name}`
    )
  return { events, handle, saw }
}

test(
  'each kind of event',
  withSandbox(async (sandbox) => {
    await sandbox.files.makeDir('w')
    const { handle, saw } = await watched(sandbox, 'w')
    await sandbox.files.write('w/a', '1')
    await saw(FilesystemEventType.CREATE, 'a')
    await saw(FilesystemEventType.WRITE, 'a')
    await sandbox.commands.run('chmod 600 w/a')
    await saw(FilesystemEventType.CHMOD, 'a')
    await sandbox.files.rename('w/a', 'w/b')
    await saw(FilesystemEventType.RENAME, 'a')
    await sandbox.files.remove('w/b')
    await saw(FilesystemEventType.REMOVE, 'b')
    await handle.stop()
  })
)

test(
  'below, with entries, and no more after the end',
  withSandbox(async (sandbox) => {
    await sandbox.files.makeDir('w/sub')
    const { events, handle, saw } = await watched(sandbox, 'w', {
      recursive: true,
      includeEntry: true,
    })
    await sandbox.files.write('w/sub/a', '1')
    const event = await saw(FilesystemEventType.WRITE, 'sub/a')
    assert.equal(event.entry.path, '/home/user/w/sub/a')
    await handle.stop()
    const seen = events.length
    const second = await watched(sandbox, 'w')
    await sandbox.files.write('w/b', '1')
    await second.saw(FilesystemEventType.WRITE, 'b')
    assert.equal(events.length, seen)
    await second.handle.stop()
  })
)

test(
  'what does not exist',
  withSandbox(async (sandbox) => {
    await assert.rejects(sandbox.files.watchDir('no/such', () => {}), FileNotFoundError)
  })
)
