import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { test } from 'node:test'
import { FileNotFoundError, FileType, InvalidArgumentError } from 'e2b'
import { withSandbox } from './fixtures.mjs'

const MIB = 1024 * 1024
const LARGE = 100 * MIB

test(
  'write and read in every form',
  withSandbox(async (sandbox) => {
    const info = await sandbox.files.write('d/a.txt', 'hello ж')
    assert.equal(info.path, '/home/user/d/a.txt')
    assert.deepEqual([info.name, info.type, info.metadata], ['a.txt', 'file', undefined])
    assert.equal(await sandbox.files.read('d/a.txt'), 'hello ж')
    const data = Uint8Array.from({ length: 1000 }, (_, index) => index % 256)
    await sandbox.files.write('bytes', data.buffer)
    assert.deepEqual(await sandbox.files.read('bytes', { format: 'bytes' }), data)
    const blob = await sandbox.files.read('bytes', { format: 'blob' })
    assert.deepEqual(new Uint8Array(await blob.arrayBuffer()), data)
    await sandbox.files.write('blob', new Blob(['from a blob']))
    assert.equal(await sandbox.files.read('blob'), 'from a blob')
    await sandbox.files.write('empty', '')
    assert.equal(await sandbox.files.read('empty'), '')
  })
)

test(
  'many files at once',
  withSandbox(async (sandbox) => {
    const files = [1, 2, 3].map((n) => ({ path: `many/${n}`, data: String(n) }))
    const infos = await sandbox.files.write(files)
    assert.deepEqual(infos.map((info) => info.name), ['1', '2', '3'])
    assert.equal(await sandbox.files.read('many/3'), '3')
  })
)

test(
  '100 MiB both ways',
  withSandbox(async (sandbox) => {
    const block = Buffer.alloc(MIB, 7)
    const sent = createHash('sha256')
    let number = 0
    const stream = new ReadableStream({
      pull(controller) {
        if (number === LARGE / MIB) return controller.close()
        const piece = Buffer.from(block)
        piece.writeUInt32BE(number++)
        sent.update(piece)
        controller.enqueue(new Uint8Array(piece))
      },
    })
    await sandbox.files.write('large', stream)
    const expected = sent.digest('hex')
    const inside = await sandbox.commands.run('sha256sum large')
    assert.equal(inside.stdout.split(' ')[0], expected)
    const read = createHash('sha256')
    for await (const piece of await sandbox.files.read('large', { format: 'stream' })) {
      read.update(piece)
    }
    assert.equal(read.digest('hex'), expected)
  })
)

test(
  'directories, info, rename, remove',
  withSandbox(async (sandbox) => {
    assert.equal(await sandbox.files.makeDir('a/b'), true)
    assert.equal(await sandbox.files.makeDir('a/b'), false)
    await sandbox.files.write('a/f', '12345')
    const entries = await sandbox.files.list('a')
    assert.deepEqual(entries.map((entry) => [entry.name, entry.type]), [
      ['b', FileType.DIR],
      ['f', FileType.FILE],
    ])
    const info = await sandbox.files.getInfo('a/f')
    assert.equal(info.size, 5)
    assert.equal(info.owner, 'user')
    assert.equal(info.permissions, '-rw-r--r--')
    await sandbox.files.rename('a/f', 'c/g')
    assert.equal(await sandbox.files.exists('a/f'), false)
    assert.equal(await sandbox.files.read('c/g'), '12345')
    await sandbox.files.remove('a')
    assert.equal(await sandbox.files.exists('a'), false)
  })
)

test(
  'metadata',
  withSandbox(async (sandbox) => {
    await sandbox.files.write('a', 'x', { metadata: { origin: 'test' } })
    assert.deepEqual((await sandbox.files.getInfo('a')).metadata, { origin: 'test' })
  })
)

test(
  'what is wrong is said',
  withSandbox(async (sandbox) => {
    await assert.rejects(sandbox.files.read('no/such'), FileNotFoundError)
    await assert.rejects(sandbox.files.list('no/such'), FileNotFoundError)
    await assert.rejects(sandbox.files.write('/home/user', 'x'), InvalidArgumentError)
  })
)
