//! A wire between a client and a server that goes silent: what is under way is lost, and nobody is told.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::{SockFilter, SockRef};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// A connection's near end, kept open, and what carries its bytes.
type Carried = (std::net::TcpStream, AbortHandle);

/// Carries bytes as long as the test runs.
pub struct Wire {
    pub address: SocketAddr,
    carried: Arc<Mutex<Vec<Carried>>>,
}

impl Wire {
    pub async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let carried: Arc<Mutex<Vec<Carried>>> = Arc::default();
        let all = Arc::clone(&carried);
        tokio::spawn(async move {
            loop {
                let near = listener.accept().await.unwrap().0.into_std().unwrap();
                let kept = near.try_clone().unwrap();
                let mut near = TcpStream::from_std(near).unwrap();
                let mut far = TcpStream::connect(server).await.unwrap();
                let carrying = tokio::spawn(async move {
                    // Ends as either end does.
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
                all.lock().unwrap().push((kept, carrying.abort_handle()));
            }
        });
        Self { address, carried }
    }

    /// Comes back when somebody has been connected for a while: a watch has begun by then.
    pub async fn watched(&self) {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    /// From now on nothing comes through by the connections that there are, and their kernel answers nothing. New ones are well.
    pub fn goes_silent(&self) {
        /// A classic BPF program of one instruction: of every segment, take nothing.
        const TAKE_NOTHING: SockFilter = SockFilter::new(0x06, 0, 0, 0);
        for (near, carrying) in self.carried.lock().unwrap().iter() {
            SockRef::from(near).attach_filter(&[TAKE_NOTHING]).unwrap();
            carrying.abort();
        }
    }
}
