import assert from 'node:assert/strict'
import { test } from 'node:test'
import { withSandbox } from './fixtures.mjs'

const encode = (text) => new TextEncoder().encode(text)

async function shell(sandbox, options = {}) {
  let shown = ''
  const decoder = new TextDecoder()
  const handle = await sandbox.pty.create({
    cols: 80,
    rows: 24,
    onData: (data) => (shown += decoder.decode(data, { stream: true })),
    ...options,
  })
  // Ends the shell with a line and answers with everything the terminal showed.
  const finish = async (line) => {
    await sandbox.pty.sendInput(handle.pid, encode(line))
    const code = await handle.wait().then(
      (done) => done.exitCode,
      (error) => error.exitCode
    )
    return { shown, code }
  }
  return { handle, finish }
}

test(
  'a shell in a terminal',
  withSandbox(async (sandbox) => {
    const { handle, finish } = await shell(sandbox, { cwd: '/tmp', envs: { X: 'here' } })
    await sandbox.pty.resize(handle.pid, { cols: 132, rows: 50 })
    const { shown, code } = await finish('tty; stty size; echo "<$X|$PWD|$TERM>"; exit 6\n')
    assert.match(shown, /\/dev\/pts\//)
    assert.match(shown, /50 132/)
    assert.match(shown, /<here\|\/tmp\|xterm-256color>/)
    assert.equal(code, 6)
  })
)

test(
  'kill',
  withSandbox(async (sandbox) => {
    const { handle } = await shell(sandbox)
    assert.equal(await sandbox.pty.kill(handle.pid), true)
    await assert.rejects(handle.wait())
    assert.equal(await sandbox.pty.kill(handle.pid), false)
  })
)

test(
  'connecting again',
  withSandbox(async (sandbox) => {
    const { handle } = await shell(sandbox)
    await handle.disconnect()
    let shown = ''
    const again = await sandbox.pty.connect(handle.pid, {
      onData: (data) => (shown += new TextDecoder().decode(data)),
    })
    await sandbox.pty.sendInput(handle.pid, encode('echo back$((1+1)); exit 0\n'))
    assert.equal((await again.wait()).exitCode, 0)
    assert.match(shown, /back2/)
  })
)
